"""Partial forward passes: a network skips the operators that it shares with a base network.

`script` records the operators of the base, `replay` runs a network from its first change on, and
`prefix_cache` does both for a series of candidates.
"""

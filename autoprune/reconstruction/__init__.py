"""Repair without training: least-squares refit, OBS elimination, BN re-estimation.

Axes in signatures are those of `statistics`.
"""

"""Recovery: short, label-free training of a cut network towards the dense one's activations.

Axes in signatures are those of `statistics`.
"""

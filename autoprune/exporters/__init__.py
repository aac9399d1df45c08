"""File formats of runtimes: written, checked against PyTorch, quantised.

The package is not called `export`: importing it would replace the function `autoprune.export`.
"""

"""Short training of a cut network to imitate the dense one; no labels are read."""

"""Networks by name, and trained weights for them.

This module imports nothing, so that a model spec can be checked without PyTorch.
"""

MODEL_FORMS = ("torchvision", "timm", "demo")
"""What the model spec of an installed network begins with."""

DEMO, DEMO_DATA = "demo", "digits"
"""The spec of the built-in network, and of the data that it was trained on."""

"""Networks by name, and trained weights for them."""

MODEL_FORMS = ("torchvision", "timm", "demo")
"""How networks of installed packages are named."""

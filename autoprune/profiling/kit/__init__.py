"""Measuring on a device that has no PyTorch."""

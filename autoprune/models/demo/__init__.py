"""A small trained network for a first try without a model or data of one's own."""

from autoprune.models.demo.network import DigitsCNN, digits_cnn, load_demo

__all__ = ["DigitsCNN", "digits_cnn", "load_demo"]

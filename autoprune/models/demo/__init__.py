"""A small trained network, to try autoprune without a model or data."""

from autoprune.models.demo.network import DigitsCNN, digits_cnn, load_demo

__all__ = ["DigitsCNN", "digits_cnn", "load_demo"]

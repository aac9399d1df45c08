"""Measures a device: layers, networks, and the table made of them."""

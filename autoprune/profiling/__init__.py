"""Measures a device: the latencies of layers and networks, and the table made of them."""

"""Latency of networks of any widths on one device: measured layers, a table, predictions."""

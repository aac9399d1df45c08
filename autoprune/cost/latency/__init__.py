"""Predicts latencies on one device: a table of measured layers, and a model of networks."""

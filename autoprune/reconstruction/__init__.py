"""Repair without training: least-squares refit, OBS elimination, BN re-estimation."""

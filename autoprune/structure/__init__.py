"""The prunable structure of a network: trace it, verify it, cut it."""

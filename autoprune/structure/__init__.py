"""From a network to its prunable structure: trace, verify, cut."""

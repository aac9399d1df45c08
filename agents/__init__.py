"""Search strategies: they choose the widths."""

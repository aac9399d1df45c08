"""Search strategies: who chooses the widths."""

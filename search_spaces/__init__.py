"""What may be chosen: allowed widths and their projection onto a budget."""

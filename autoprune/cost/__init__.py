"""What a network of any widths costs."""

"""From one forward pass to channel groups."""

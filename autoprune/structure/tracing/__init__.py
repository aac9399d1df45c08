"""Tracing: from one forward pass to channel groups."""

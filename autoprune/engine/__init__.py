"""One search: its stages, and what runs them."""

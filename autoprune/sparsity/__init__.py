"""Single weights, not channels: which of them become zero, in which patterns."""

"""Plain values and small tools that everything else stands on."""

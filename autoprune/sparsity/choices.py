"""What single weights are chosen by, and in which patterns they go, by name.

The command line reads this; nothing heavy is imported.
"""

UNSTRUCTURED = "unstructured"
"""Any weights; patterns besides are N:M and ROWSxCOLUMNS."""

OBS, MAGNITUDE, SNIP = "obs", "magnitude", "snip"
CRITERIA = (OBS, MAGNITUDE, SNIP)
"""What the others make up for best (Frantar and Alistarh 2023); the smallest ones, of which fewer
and fewer stay in training (Zhu and Gupta 2017); those of least sensitivity (Lee et al. 2019)."""


def says_amount(pattern: str) -> bool:
    """Return whether a pattern is N:M, from which the amount follows."""
    return ":" in pattern


def is_gradual(criterion: str, pattern: str) -> bool:
    """Return whether weights go one after the other while the network trains."""
    return criterion == MAGNITUDE and not says_amount(pattern)

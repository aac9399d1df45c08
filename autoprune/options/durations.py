"""Durations as users write them."""

from __future__ import annotations

import math
import re

from autoprune.errors import UsageError, spelt

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


DURATIONS = "90s, 10m or 1h"


def parse_duration(text: str, name: str = "time", examples: str = DURATIONS) -> float:
    """Read "90s", "10m", "1.5h", or plain seconds.

    Args:
        text: what the user wrote.
        name: of the option.
        examples: what would do.

    Returns:
        Seconds.

    Raises:
        UsageError: malformed, zero or negative.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([a-z]?)", text.strip().lower())
    seconds = float(match[1]) * _UNITS.get(match[2], math.nan) if match else math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(
            f"{spelt(name)} {text!r} is not a duration above zero: write e.g. {examples}."
        )
    return seconds

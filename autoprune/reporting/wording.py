"""Figures as people read them: with their unit, and no more digits than mean something."""

from __future__ import annotations

import math

from autoprune.cost.latency.conditions import measured_on

UNKNOWN = "–"
# Stages whose keys in `result.json` do not say what they are.
_STAGES = {"judge": "choice of the search evaluator", "paths": "orders of channels"}


def percent(share: float | None, digits: int = 2) -> str:
    """Return a fraction as 93.39 %."""
    return UNKNOWN if share is None else f"{100 * share:.{digits}f} %"


def points(difference: float | None) -> str:
    """Return a difference of fractions in percentage points."""
    if difference is None:
        return UNKNOWN
    return f"{round(100 * difference, 2) + 0.0:+.2f} points"  # never -0.00


def number(value: float | None, digits: int = 3, sign: str = "") -> str:
    """Return a number with so many significant digits; what is not finite is not known."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{value:{sign}.{digits}g}"


def duration(seconds: float | None) -> str:
    """Return a time as 3.2 s, 4 min 10 s or 2 h 5 min."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def stage_title(key: str) -> str:
    """Return the name of a stage whose seconds are in `result.json`."""
    return _STAGES.get(key, key)


def conditions(backend: str, device: str, threads: int | None) -> str:
    """Return in words what a latency is of."""
    return f"{measured_on(backend, device, threads)}, batch 1"


def brief(name: str, most: int = 60) -> str:
    """Return a name without its middle if it is long."""
    shown = "".join(c if c.isprintable() else " " for c in name)
    if len(shown) <= most:
        return shown
    return f"{shown[: most // 2 - 1]} … {shown[-(most // 2) + 2 :]}"

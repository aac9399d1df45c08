"""Durations and keep ratios, as the command line writes them."""

from __future__ import annotations

import pytest

from autoprune.errors import UsageError
from autoprune.options.durations import parse_duration
from autoprune.options.kinds import parse_min_keep


@pytest.mark.parametrize(
    ("text", "seconds"), [("120", 120), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("1D", 86400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-1s", "0m", "1w", "1h30m", "nan", "inf"])
def test_no_durations(text: str) -> None:
    with pytest.raises(UsageError, match="10m"):
        parse_duration(text)


def test_min_keep() -> None:
    assert parse_min_keep(["0.2", "layer1.*=0.5"]) == {"*": 0.2, "layer1.*": 0.5}
    for text in ("0", "-0.1", "1.01", "nan", "half", "a=b", "a="):
        with pytest.raises(UsageError, match="layer1"):
            parse_min_keep([text])

"""Labels of a split of the data."""

from __future__ import annotations

from typing import Any


def labels_of(split: Any) -> list[int]:
    return [int(label) for batch in split.batches(64) for label in batch.targets]

"""Seconds spent, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType


class StageTimes:
    """Adds up the seconds that each stage of some work takes."""

    def __init__(self, *stages: str) -> None:
        """Begin with no seconds in any of these stages; others are added when they run."""
        self._seconds = dict.fromkeys(stages, 0.0)

    @property
    def seconds(self) -> Mapping[str, float]:
        """The seconds so far, by stage."""
        return MappingProxyType(self._seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside as a stage's, however it ends."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Count seconds as a stage's."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

"""The contract of a backend, which runs layers and networks so that they can be measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import nn

from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.signature import Signature
from autoprune.data.forms import Inputs
from autoprune.profiling.stopwatch import Run, Timing, measure


class Backend(ABC):
    """Makes runs for the stopwatch, all under the same conditions.

    Attributes:
        name: The name in `--backend`.
        conditions: The conditions of every run.
    """

    name: ClassVar[str]

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions

    @abstractmethod
    def layer(self, signature: Signature) -> Run:
        """Return a run of one layer with any weights."""

    @abstractmethod
    def network(self, model: nn.Module, inputs: Inputs) -> Run:
        """Return a run of a network on a batch, called as `structure.inputs.run` does."""

    def measure(self, runs: Sequence[Run]) -> list[Timing]:
        """Return how long each run takes; override it where this process's clock cannot tell."""
        return measure(runs)

    @abstractmethod
    def device_name(self) -> str:
        """Return the name of the processor."""

    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """Return the versions of the libraries in use, by name."""

    @classmethod
    def default_threads(cls) -> int:
        """Return the threads that the runtime uses on this host by default, as PyTorch here."""
        return torch.get_num_threads()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Set what holds for the whole process, such as its number of threads, for a while."""
        yield

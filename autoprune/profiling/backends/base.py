"""What runs a layer or a network to be measured: one small contract, and the backends by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import nn

from autoprune.core.plugins import Kind
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.signature import Signature
from autoprune.data.forms import Inputs
from autoprune.errors import UsageError
from autoprune.profiling.stopwatch import Run, Timing, measure

KIND = Kind(
    "backend",
    "autoprune.backends",
    {
        "torch": "autoprune.profiling.backends.torch:TorchBackend",
        "torch-compile": "autoprune.profiling.backends.torch:CompiledBackend",
        "onnxruntime": "autoprune.profiling.backends.onnx:OnnxBackend",
    },
)


class Backend(ABC):
    """Makes runs for the stopwatch, all under the same conditions.

    Attributes:
        name: the one in `--backend`.
        conditions: of every run.
    """

    name: ClassVar[str]

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions

    @abstractmethod
    def layer(self, signature: Signature) -> Run:
        """Return what runs one layer with any weights."""

    @abstractmethod
    def network(self, model: nn.Module, inputs: Inputs) -> Run:
        """Return what runs a network on a batch, as `structure.inputs.run` calls it."""

    def measure(self, runs: Sequence[Run]) -> list[Timing]:
        """Return how long each run takes; overridden where this process's clock cannot tell."""
        return measure(runs)

    @abstractmethod
    def device_name(self) -> str:
        """Return the name of the processor that runs it."""

    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """Return the versions of the libraries that it measures with."""

    @classmethod
    def default_threads(cls) -> int:
        """Return how many threads the runtime uses on this host by default; PyTorch's here."""
        return torch.get_num_threads()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Hold the conditions that are the process's own, as its number of threads."""
        yield


def make_backend(conditions: Conditions) -> Backend:
    """Return the backend that the conditions name; a file or module that they name is imported.

    Raises:
        UsageError: there is none of that name, or what it needs is missing here.
    """
    return KIND.make(conditions.backend, Backend, conditions)  # type: ignore[type-abstract]


def backend_class(name: str) -> type[Backend]:
    """Return the class of a backend; a file or module that is named is imported.

    Raises:
        UsageError: there is none of that name.
    """
    found = KIND.load(name)
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise UsageError(
            f"backend {name!r} is no subclass of autoprune.profiling.backends.base.Backend."
        )
    return found

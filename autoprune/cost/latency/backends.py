"""What runs a layer or a network to be measured: one small contract, and the backends by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from autoprune.cost.latency.signature import Signature
from autoprune.cost.latency.stopwatch import Run, Timing, measure
from autoprune.data.inputs import Inputs
from autoprune.errors import UsageError
from autoprune.plugin import call_factory, is_entry_point, load_plugin
from autoprune.untrusted import extent, fields, text

ENTRY_POINTS = "autoprune.backends"
DEFAULT_BACKEND = "torch"
MEMORY_FORMATS = ("contiguous", "channels_last")
DTYPES = ("float32", "float16", "bfloat16", "float64")


@dataclass(frozen=True)
class Conditions:
    """What all measurements of a table have in common.

    Attributes:
        backend: its name.
        device: cpu, cuda, or the name of an ONNX Runtime provider.
        threads: of one run; None leaves it to the runtime, on a device that is yet to be seen.
        batch: samples per run.
        dtype: of weights and activations.
        memory_format: contiguous or channels_last.
    """

    backend: str = DEFAULT_BACKEND
    device: str = "cpu"
    threads: int | None = 1
    batch: int = 1
    dtype: str = "float32"
    memory_format: str = "contiguous"

    def __post_init__(self) -> None:
        for name, known in (("dtype", DTYPES), ("memory_format", MEMORY_FORMATS)):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name.replace('_', '-')} must be one of {', '.join(known)}, but got "
                    f"{getattr(self, name)!r}."
                )
        for name in ("threads", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, but got {value}.")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Conditions:
        """Inverse of `to_json`.

        Raises:
            ValueError: there are no such conditions.
        """
        texts = dict.fromkeys(("backend", "device", "dtype", "memory_format"), text)
        return cls(**fields(data, {**texts, **dict.fromkeys(("threads", "batch"), extent)}))


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
    name = conditions.backend
    kind = backend_class(name)
    if name in _built_in():
        return kind(conditions)
    made: Backend = call_factory(lambda: kind(conditions), name, "backend")
    return made


def backend_class(name: str) -> type[Backend]:
    """Return the class of a backend; a file or module that is named is imported.

    Raises:
        UsageError: there is none of that name.
    """
    built_in = _built_in()
    found = built_in.get(name) or load_plugin(name, "backend", ENTRY_POINTS, built_in)
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise UsageError(
            f"backend {name!r} is no subclass of autoprune.cost.latency.backends.Backend."
        )
    return found


def measured_on(backend: str, device: str, threads: int | None) -> str:
    """Return in words what a latency was measured with, or predicted for.

    Args:
        backend: its name.
        device: name of the processor.
        threads: of one run; None where that says nothing, as on a GPU.
    """
    if threads is None:
        return f"{backend} on {device}"
    return f"{backend} on {device} ({threads} thread{'s' if threads > 1 else ''})"


def is_installed(name: str) -> bool:
    """Return whether a backend is built in or an installed package's: a table may choose these."""
    return name in _built_in() or is_entry_point(name, ENTRY_POINTS)


def _built_in() -> dict[str, type[Backend]]:
    from autoprune.cost.latency.onnx_backend import OnnxBackend
    from autoprune.cost.latency.torch_backend import CompiledBackend, TorchBackend

    return {kind.name: kind for kind in (TorchBackend, CompiledBackend, OnnxBackend)}

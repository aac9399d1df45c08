"""Under which conditions latencies were measured, or are predicted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from autoprune.core.untrusted import extent, fields, text
from autoprune.errors import UsageError

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

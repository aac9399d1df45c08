"""The conditions under which latencies are measured or predicted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from autoprune.core.untrusted import extent, fields, text
from autoprune.errors import UsageError, counted

DEFAULT_BACKEND = "torch"
MEMORY_FORMATS = ("contiguous", "channels_last")
DTYPES = ("float32", "float16", "bfloat16", "float64")


@dataclass(frozen=True)
class Conditions:
    """What all measurements of a latency table have in common.

    Attributes:
        backend: The name of the backend.
        device: "cpu", "cuda", or the name of an ONNX Runtime provider.
        threads: The threads of one run; None leaves them to the runtime of a device that is not
            known yet.
        batch: The samples per run.
        dtype: The data type of weights and activations.
        memory_format: "contiguous" or "channels_last".
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
        """Read what `to_json` returns.

        Raises:
            ValueError: The data are not valid conditions.
        """
        texts = dict.fromkeys(("backend", "device", "dtype", "memory_format"), text)
        return cls(**fields(data, {**texts, **dict.fromkeys(("threads", "batch"), extent)}))


def measured_on(backend: str, device: str, threads: int | None) -> str:
    """Return in words what a latency was measured with, or is predicted for.

    Args:
        backend: The name of the backend.
        device: The name of the processor.
        threads: The threads of one run; None where they mean nothing, as on a GPU.
    """
    if threads is None:
        return f"{backend} on {device}"
    return f"{backend} on {device} ({counted(threads, 'thread')})"

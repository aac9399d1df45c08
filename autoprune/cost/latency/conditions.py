"""The conditions under which latencies are measured or predicted."""

from __future__ import annotations

from autoprune.core.records import Extent, Record, Text
from autoprune.errors import UsageError, counted

DEFAULT_BACKEND = "torch"
MEMORY_FORMATS = ("contiguous", "channels_last")
DTYPES = ("float32", "float16", "bfloat16", "float64")


class Conditions(Record, frozen=True):
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

    backend: Text = DEFAULT_BACKEND
    device: Text = "cpu"
    threads: Extent | None = 1
    batch: Extent = 1
    dtype: Text = "float32"
    memory_format: Text = "contiguous"

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

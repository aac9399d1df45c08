"""Backends by name: built in, of installed packages, or classes in the user's files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.core.plugins import Kind
from autoprune.errors import UsageError

if TYPE_CHECKING:  # they bring PyTorch along, which the names alone do not need
    from autoprune.cost.latency.conditions import Conditions
    from autoprune.profiling.backends.base import Backend

KIND = Kind(
    "backend",
    "autoprune.backends",
    {
        "torch": "autoprune.profiling.backends.torch:TorchBackend",
        "torch-compile": "autoprune.profiling.backends.torch:CompiledBackend",
        "onnxruntime": "autoprune.profiling.backends.onnx:OnnxBackend",
        "openvino": "autoprune.profiling.backends.openvino:OpenVinoBackend",
        "executorch": "autoprune.profiling.backends.executorch:ExecuTorchBackend",
        "litert": "autoprune.profiling.backends.litert:LiteRtBackend",
    },
)


def backend_class(name: str) -> type[Backend]:
    """Return the class of a backend; a file or module that the name refers to is imported.

    Raises:
        UsageError: There is no such backend.
    """
    from autoprune.profiling.backends.base import Backend

    found = KIND.load(name)
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise UsageError(
            f"backend {name!r} is not a subclass of autoprune.profiling.backends.base.Backend."
        )
    return found


def make_backend(conditions: Conditions) -> Backend:
    """Return the backend that the conditions name, as `backend_class` finds it.

    Raises:
        UsageError: There is no such backend, or what it needs is missing here.
    """
    from autoprune.profiling.backends.base import Backend

    backend_class(conditions.backend)  # refuses a class of another kind before it is called
    return KIND.make(conditions.backend, Backend, conditions)  # type: ignore[type-abstract]

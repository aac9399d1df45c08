"""Backends by name: built in, of installed packages, or classes in the user's files."""

from __future__ import annotations

import pkgutil

from autoprune.core.plugins import call_factory, is_entry_point, load_plugin
from autoprune.cost.latency.conditions import Conditions
from autoprune.errors import UsageError
from autoprune.profiling.backends.base import Backend

ENTRY_POINTS = "autoprune.backends"
# Imported on demand.
_PLACES = {
    "onnxruntime": "autoprune.profiling.backends.onnx:OnnxBackend",
    "torch": "autoprune.profiling.backends.torch:TorchBackend",
    "torch-compile": "autoprune.profiling.backends.torch:CompiledBackend",
}


def backend_class(name: str) -> type[Backend]:
    """Return the class of a backend; a file or module that the name refers to is imported.

    Raises:
        UsageError: There is no such backend.
    """
    place = _PLACES.get(name)
    found = (
        load_plugin(name, "backend", ENTRY_POINTS, _PLACES)
        if place is None
        else pkgutil.resolve_name(place)
    )
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
    name = conditions.backend
    kind = backend_class(name)
    if name in _PLACES:
        return kind(conditions)
    made: Backend = call_factory(lambda: kind(conditions), name, "backend")
    return made


def is_installed(name: str) -> bool:
    """Return whether a backend is built in or of an installed package: a table may choose these."""
    return name in _PLACES or is_entry_point(name, ENTRY_POINTS)

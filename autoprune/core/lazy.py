"""Imports that wait until something is used, for PyTorch alone takes seconds."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from typing import Any

from autoprune.errors import UsageError


def imported(place: str) -> Callable[..., Any]:
    """Return a function that imports the one at "package.module:NAME" once it is called."""

    def call(*args: Any, **options: Any) -> Any:
        return pkgutil.resolve_name(place)(*args, **options)

    return call


def names_from(package: str, module: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package whose public names a module of it collects.

    No public name may be that of a module of the package: Python would find the module.

    Args:
        package: its name.
        module: of the package, imported when the first public name is asked for.
    """

    def __getattr__(name: str) -> Any:
        # `from package import a_module` asks here first: that is not to import all others.
        is_module = importlib.util.find_spec(f"{package}.{name}") is not None
        if not is_module and (name == "__all__" or not name.startswith("_")):
            public = importlib.import_module(f"{package}.{module}")
            if hasattr(public, name):
                return getattr(public, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__


def require(what: str, extra: str, *modules: str) -> None:
    """Import the modules that an optional part of autoprune needs.

    Args:
        what: the part; opens the message ("the backend 'openvino'").
        extra: of autoprune, which installs them.
        *modules: their names.

    Raises:
        UsageError: one of them, or what it needs itself, is not installed.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UsageError(
                f'{what} needs the package {error.name!r}: pip install "autoprune[{extra}]".'
            ) from error

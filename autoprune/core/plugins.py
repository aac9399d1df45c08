"""Components and other objects that the user names: `file.py:NAME`, modules, entry points.

The file is long since whatever leads to an import by name is in it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from autoprune.errors import AutopruneError, UsageError, did_you_mean, type_of, user_code

Component = TypeVar("Component")


def names_object(spec: str) -> bool:
    """Return whether a spec can only mean an object: a Python file or a module that is there."""
    place, _, name = spec.rpartition(":")
    if place.endswith(".py"):
        return True
    if not name.isidentifier() or not _is_dotted(place):
        return False
    return "." in place or _is_module(place)


def load_object(spec: str, what: str) -> Any:
    """Import what a spec names.

    Args:
        spec: `path/to/file.py:name` or `package.module:name`. The current directory is importable,
            and so is the folder of the file.
        what: what the object is for ("model", "data", "reward"); opens every error message.

    Raises:
        UsageError: the spec is malformed, the file, module or name is missing, or importing
            fails.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name.isidentifier():
        raise UsageError(
            f"{what} {spec!r} names no object: write path/to/file.py:NAME or package.module:NAME."
        )
    _make_importable(Path.cwd())

    def failed(reason: str) -> UsageError:
        return UsageError(f"{what} {spec!r}: importing {place!r} fails: {reason}")

    try:
        with user_code(failed, passes=(_MissingPlaceError,)):
            module = _import_file(place) if place.endswith(".py") else _import_module(place)
    except _MissingPlaceError as error:
        raise UsageError(f"{what} {spec!r}: {error}") from error
    if not hasattr(module, name):
        known = [known for known in vars(module) if not known.startswith("_")]
        hint = did_you_mean(name, known) if known else "it defines nothing."
        raise UsageError(f"{what} {spec!r}: {place!r} has no {name!r}; {hint}")
    return getattr(module, name)


@dataclass(frozen=True)
class Kind:
    """A kind of component that users choose by name, or write themselves.

    Attributes:
        what: the word for it; opens every error message ("strategy").
        group: of the entry points by which installed packages offer theirs.
        built_in: what comes with autoprune, by name, in the order of the help: the object, or the
            place "package.module:NAME" that it is imported from once it is chosen.
        special: names that stand for one of these ("auto"), resolved before.
        unlisted: what comes with autoprune, too, but is chosen in another way than by this name.
    """

    what: str
    group: str
    built_in: Mapping[str, Any]
    special: tuple[str, ...] = ()
    unlisted: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that come with autoprune, in the order of the help."""
        return (*self.special, *self.built_in)

    def is_installed(self, name: str) -> bool:
        """Return whether a name is one of ours or an installed package's entry point."""
        return name in (*self.names, *self.unlisted) or name in self._entries

    def check_name(self, spec: str) -> None:
        """Refuse what can be no component's name; nothing is imported.

        Raises:
            UsageError: it is neither a name that is installed nor the spec of an object.
        """
        if self.is_installed(spec) or spec.endswith(".py"):
            return
        family = f"{spec.partition(':')[0]}:"
        is_misspelt = any(name.startswith(family) for name in self.built_in)
        if ":" in spec and (names_object(spec) or not is_misspelt):
            return
        hint = did_you_mean(spec, [*self.names, *self._entries], ["path/to/file.py:NAME"])
        raise UsageError(f"unknown {self.what} {spec!r}; {hint}")

    def load(self, wanted: Any) -> Any:
        """Return the object that is meant: what a spec names, or else what is given.

        Args:
            wanted: a built-in name, the name of an entry point, `path/to/file.py:NAME`,
                `package.module:NAME`, or the object itself.

        Raises:
            UsageError: it names nothing, or importing fails.
        """
        if not isinstance(wanted, str):
            return wanted
        self.check_name(wanted)
        if wanted in self._ours:
            found = self._ours[wanted]
            if not isinstance(found, str):
                return found
            module, _, name = found.partition(":")
            return getattr(importlib.import_module(module), name)
        if (entry := self._entries.get(wanted)) is not None:
            place = f"{entry.module}:{entry.attr}"
            return load_object(place, f"{self.what} {wanted!r}, entry point")
        return load_object(wanted, self.what)

    def make(self, wanted: Any, base: type[Component], *args: Any, **options: Any) -> Component:
        """Return the component that is meant: an instance, or what a class or function makes.

        Args:
            wanted: as `load` takes it.
            base: of which it must be an instance.
            *args: for the class or function that makes it.
            **options: for the same.

        Raises:
            UsageError: there is none, it cannot be made, or it is something else.
        """
        made = found = self.load(wanted)
        if isinstance(found, type) or (callable(found) and not isinstance(found, base)):
            factory = partial(found, *args, **options)
            # Errors of our own code pass; for others it is said which component raises.
            is_ours = isinstance(wanted, str) and wanted in self._ours
            made = factory() if is_ours else call_factory(factory, self.name_of(wanted), self.what)
        elif options:
            raise UsageError(
                f"{self.what} {self.name_of(wanted)!r} is an object, made with its options: leave "
                f"out {', '.join(options)}."
            )
        if not isinstance(made, base):
            raise UsageError(
                f"{self.what} {self.name_of(wanted)!r} gives {type_of(made)}: it must be a "
                f"subclass of {base.__module__}.{base.__qualname__}."
            )
        return made

    @property
    def _ours(self) -> dict[str, Any]:
        return {**self.built_in, **self.unlisted}

    @property
    def _entries(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group)}

    def name_of(self, wanted: Any) -> str:
        """Return the name that finds a component again: a spec as it is, "module:Name" of others.

        Of a class that is built in, or an instance of it, that is the built-in name.
        """
        if isinstance(wanted, str):
            return wanted
        named, place = _named(wanted), object_name(wanted)
        ours = (name for name, found in self._ours.items() if found in (named, place))
        return next(ours, place)


def object_name(wanted: Any) -> str:
    """Return "module:Name" of a function or class, or of the class of anything else."""
    named = _named(wanted)
    return f"{named.__module__}:{named.__qualname__}"


def _named(wanted: Any) -> Any:
    return wanted if hasattr(wanted, "__qualname__") else type(wanted)


def files_of(spec: str) -> list[Path] | None:
    """Return the files that importing what a spec names runs first; nothing is imported.

    These are the Python file, or the module's and those of the packages around it. A module that
    has no file adds none, nor does one that is not found, as it may be once other code has run.

    Returns:
        None if the Python file is not there.
    """
    place, _, _ = spec.rpartition(":")
    if place.endswith(".py"):
        path = Path(place).expanduser().resolve()
        return [path] if path.is_file() else None
    top, *parts = place.split(".")
    found = _find_top(top) if _is_dotted(place) else None
    chain = [] if found is None else [found]
    for part in parts if chain else ():
        inside = chain[-1].submodule_search_locations
        deeper = PathFinder.find_spec(f"{chain[-1].name}.{part}", list(inside or ()))
        if deeper is None:
            break
        chain.append(deeper)
    return [Path(one.origin) for one in chain if one.has_location and one.origin is not None]


def modules_of_files() -> list[ModuleType]:
    """Return the modules of the Python files that were named: others cannot import these."""
    modules = ((name, getattr(one, "__file__", None)) for name, one in [*sys.modules.items()])
    return [
        sys.modules[name] for name, file in modules if file and name == _name_of_file(Path(file))
    ]


def make_object(spec: str, what: str) -> Any:
    """Return what the factory that a spec names makes.

    Raises:
        UsageError: as `load_object`; or it names no factory, or that fails.
    """
    factory = load_object(spec, what)
    if not callable(factory):
        raise UsageError(
            f"{what} {spec!r} names no factory: {type(factory).__name__} is not callable."
        )
    return call_factory(factory, spec, what)


def call_factory(factory: Callable[[], Any], spec: str, what: str) -> Any:
    """Return what a factory makes.

    Raises:
        UsageError: it fails.
    """

    def failed(reason: str) -> UsageError:
        return UsageError(f"{what} {spec!r}: making it fails: {reason}")

    with user_code(failed, passes=(AutopruneError,)):
        return factory()


def absolute_object(spec: str) -> str:
    """Return the spec with a Python file's whole path; that of a module stays as it is."""
    place, _, name = spec.rpartition(":")
    return f"{absolute(place)}:{name}" if place.endswith(".py") else spec


def absolute(path: str) -> str:
    """Return the whole path of a file or folder."""
    return str(Path(path).expanduser().absolute())


class _MissingPlaceError(Exception):
    """The file or module itself, rather than something that it imports, is not there."""


def _import_file(place: str) -> ModuleType:
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise _MissingPlaceError(f"no such file: {place!r}.")
    # Two specs into one file (a model and its data) must share their classes: one module per path.
    module_name = _name_of_file(path)
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None  # always so for a name ending in .py
    module = importlib.util.module_from_spec(spec)
    _make_importable(path.parent)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _name_of_file(path: Path) -> str:
    """Return what the module of a file is called."""
    return f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _import_module(place: str) -> ModuleType:
    if not _is_dotted(place):
        raise _MissingPlaceError(f"{place!r} is neither a module's name nor a .py file.")
    importlib.invalidate_caches()
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and f"{place}.".startswith(f"{error.name}."):
            raise _MissingPlaceError(
                f"no module named {error.name!r} here or among the installed packages."
            ) from error
        raise


def _is_dotted(place: str) -> bool:
    return all(part.isidentifier() for part in place.split("."))


def _is_module(name: str) -> bool:
    return _find_top(name) is not None


def _find_top(name: str) -> ModuleSpec | None:
    """Return where a module without a dot lies, in the current directory first; imports nothing."""
    importlib.invalidate_caches()
    try:
        here = PathFinder.find_spec(name, [str(Path.cwd())])
        return here or importlib.util.find_spec(name)
    except ValueError:  # a module that is there without having been found, such as __main__
        return None


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

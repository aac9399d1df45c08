"""The data that `--data` names, by the form of the spec.

What a spec means is known without PyTorch; a loader is imported once its form is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from autoprune.core.lazy import imported
from autoprune.core.plugins import absolute, absolute_object, make_object, names_object
from autoprune.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from autoprune.data.splits import Splits

Loader: TypeAlias = "Callable[[str, str | None], Splits]"
"""(argument after the colon, normalisation spec) → splits."""


@dataclass(frozen=True)
class Form:
    """A form of the spec, `name` or `name:argument`.

    Attributes:
        load: reads the data.
        argument: how the argument is written, for the help; empty if there is none.
        absolute: makes the paths in an argument absolute.
    """

    load: Loader
    argument: str = ""
    absolute: Callable[[str], str] = absolute


FORMS: dict[str, Form] = {
    "digits": Form(imported("autoprune.data.digits:load_digits")),
    "cifar10": Form(imported("autoprune.data.cifar:load_cifar10"), "DIR"),
    "imagefolder": Form(imported("autoprune.data.folder:load_image_folder"), "DIR"),
    "npz": Form(
        imported("autoprune.data.npz:load_npz"),
        "FILE[,FILE…][;val=FILE[,FILE…]][;test=FILE[,FILE…]]",
        imported("autoprune.data.npz:absolute_files"),
    ),
}


def usages() -> list[str]:
    """Return how every form is written, e.g. "cifar10:DIR"."""
    return [f"{name}:{form.argument}".removesuffix(":") for name, form in FORMS.items()]


def load_splits(spec: str, normalize: str | None = None, classes: str | None = None) -> Splits:
    """Load the data that a spec names.

    Args:
        spec: a name in `FORMS`, with its argument after a colon if it takes one;
            `path/to/file.py:factory` or `package.module:factory`: the factory, called without
            arguments, returns what `as_splits` takes.
        normalize: see `parse_normalization`.
        classes: only with `imagefolder`: a text file with a class name per line, in the order of
            the network's outputs; the line number of a class folder, from 0, is its label.

    Raises:
        UsageError: the spec or the normalisation is malformed, or something is missing.
        DataError: the data is damaged or cannot be used.
    """
    name, colon, argument = spec.partition(":")
    if classes is not None:
        if not reads_classes(spec):
            raise UsageError(f"classes are names of class folders: data {spec!r} has none.")
        from autoprune.data.folder import load_image_folder

        return load_image_folder(argument, normalize, classes)
    if (form := FORMS.get(name)) is not None:
        if not argument and (colon or form.argument):
            raise UsageError(
                f"data {spec!r} lacks its argument after the colon: see {name} in --help."
            )
        if argument and not form.argument:
            raise UsageError(f"{name} takes no argument, but got {argument!r}: write just {name}.")
        return form.load(argument, normalize)
    if names_object(spec):
        return _from_factory(spec, normalize)
    raise UsageError(
        f"unknown data {spec!r}: {did_you_mean(name, FORMS)} "
        f"(Your own data: path/to/file.py:factory or package.module:factory.)"
    )


def reads_classes(spec: str) -> bool:
    """Say whether data has class folders, which a classes file can map to outputs."""
    form, _, argument = spec.partition(":")
    return form == "imagefolder" and bool(argument)


def _from_factory(spec: str, normalize: str | None) -> Splits:
    if normalize is not None:
        raise UsageError(
            f"normalization {normalize!r} does not apply to data {spec!r}: "
            f"the factory's own transforms normalise."
        )
    from autoprune.data.user import as_splits

    return as_splits(make_object(spec, "data"))


def absolute_data(spec: str) -> str:
    """Return a spec with absolute paths, so that it means the same in any folder."""
    name, _, argument = spec.partition(":")
    if (form := FORMS.get(name)) is None:
        return absolute_object(spec)
    return f"{name}:{form.absolute(argument)}" if argument and form.argument else spec

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

Loader: TypeAlias = "Callable[..., Splits]"
"""(argument after the colon, normalisation spec, what only photos have) → splits."""


@dataclass(frozen=True)
class Form:
    """A form of the spec, `name` or `name:argument`.

    Attributes:
        load: reads the data.
        argument: how the argument is written, for the help; empty if there is none.
        absolute: makes the paths in an argument absolute.
        has_photos: whether images are files of any size in named classes, so that `classes` and
            `image_size` say something.
    """

    load: Loader
    argument: str = ""
    absolute: Callable[[str], str] = absolute
    has_photos: bool = False


FORMS: dict[str, Form] = {
    "digits": Form(imported("autoprune.data.digits:load_digits")),
    "cifar10": Form(imported("autoprune.data.cifar:load_cifar10"), "DIR"),
    "imagefolder": Form(
        imported("autoprune.data.folder:load_image_folder"), "DIR", has_photos=True
    ),
    "hf": Form(
        imported("autoprune.data.huggingface:load_huggingface"),
        "NAME",
        imported("autoprune.data.huggingface:absolute_name"),
        has_photos=True,
    ),
    "npz": Form(
        imported("autoprune.data.npz:load_npz"),
        "FILES[;val=FILES][;test=FILES]",
        imported("autoprune.data.npz:absolute_files"),
    ),
}


def usages() -> list[str]:
    """Return how every form is written, e.g. "cifar10:DIR"."""
    return [f"{name}:{form.argument}".removesuffix(":") for name, form in FORMS.items()]


def load_splits(
    spec: str,
    normalize: str | None = None,
    classes: str | None = None,
    image_size: int | None = None,
) -> Splits:
    """Load the data that a spec names.

    Args:
        spec: a name in `FORMS`, with its argument after a colon if it takes one;
            `path/to/file.py:factory` or `package.module:factory`: the factory, called without
            arguments, returns what `as_splits` takes.
        normalize: see `parse_normalization`.
        classes: only of photos: a text file with a class name per line, in the order of the
            network's outputs; the line number of a class, from 0, is its label.
        image_size: only of photos: side of the square that they are cut to, pixels.

    Raises:
        UsageError: the spec or the normalisation is malformed, or something is missing.
        DataError: the data is damaged or cannot be used.
    """
    name, colon, argument = spec.partition(":")
    if not has_photos(spec):
        if classes is not None:
            raise UsageError(f"classes are names of class folders: data {spec!r} has none.")
        if image_size is not None:
            raise UsageError(f"image-size is for photos of any size: data {spec!r} has none.")
    if (form := FORMS.get(name)) is not None:
        if not argument and (colon or form.argument):
            raise UsageError(
                f"data {spec!r} lacks its argument after the colon: see {name} in --help."
            )
        if argument and not form.argument:
            raise UsageError(f"{name} takes no argument, but got {argument!r}: write just {name}.")
        given = {"classes": classes, "image_size": image_size}
        return form.load(argument, normalize, **{k: v for k, v in given.items() if v is not None})
    if names_object(spec):
        return _from_factory(spec, normalize)
    raise UsageError(
        f"unknown data {spec!r}: {did_you_mean(name, FORMS)} "
        f"(Your own data: path/to/file.py:factory or package.module:factory.)"
    )


def has_photos(spec: str) -> bool:
    """Return whether data are photos in named classes, of which more can be said."""
    name, _, argument = spec.partition(":")
    return name in FORMS and FORMS[name].has_photos and bool(argument)


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

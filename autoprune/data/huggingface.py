"""Datasets of images in the form of Hugging Face's `datasets`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.core.plugins import absolute
from autoprune.data.batches import TARGETS
from autoprune.data.class_names import Numbering
from autoprune.data.normalization import parse_normalization
from autoprune.data.photos import USUAL_SIZE, PhotoForm, Photos, PhotoSplit
from autoprune.data.splits import Splits
from autoprune.errors import DataError, UsageError, listed, user_code

if TYPE_CHECKING:
    from PIL.Image import Image

# What others call our splits.
SPLITS = {"train": "train", "validation": "val", "val": "val", "valid": "val", "test": "test"}


def load_huggingface(
    argument: str,
    normalize: str | None,
    classes: str | None = None,
    image_size: int = USUAL_SIZE,
) -> Splits:
    """Read a dataset of images: a folder that `save_to_disk` wrote, or what `load_dataset` finds.

    Args:
        argument: the folder, or a name that `datasets.load_dataset` takes.
        normalize: see `parse_normalization`.
        classes: a text file with a class name per line, in the order of the network's outputs;
            without it, labels are those of the dataset.
        image_size: side of the square that images are cut to, pixels.

    Raises:
        UsageError: `datasets` is not installed, or it finds no such dataset.
        DataError: the dataset has no images.
    """
    parts = _load(argument)
    named = {SPLITS[name]: part for name, part in parts.items() if name in SPLITS}
    if not named.keys() & {"train", "val"}:
        raise DataError(
            f"hf:{argument} has neither train nor validation: it has {listed(list(parts))}."
        )
    if "train" not in named:
        named["train"] = named.pop("val")
    form = PhotoForm(parse_normalization(normalize, channels=3), image_size)
    splits = {
        name: PhotoSplit(_photos(part, argument, classes), form) for name, part in named.items()
    }
    return Splits.of(splits)


def absolute_name(argument: str) -> str:
    """Return the whole path of a folder; a name on a hub stays as it is."""
    return absolute(argument) if Path(argument).expanduser().exists() else argument


def _load(argument: str) -> Mapping[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise UsageError("hf:NAME needs the package datasets: pip install datasets.") from error
    folder = Path(argument).expanduser()
    is_saved = any((folder / name).exists() for name in ("dataset_dict.json", "state.json"))
    with user_code(lambda reason: UsageError(f"hf:{argument} cannot be loaded: {reason}")):
        if is_saved:
            found = datasets.load_from_disk(str(folder))
        else:
            found = datasets.load_dataset(str(folder) if folder.is_dir() else argument)
    return found if isinstance(found, Mapping) else {"train": found}


def _photos(part: Any, argument: str, classes: str | None) -> Photos:
    kinds = {name: type(feature).__name__ for name, feature in part.features.items()}
    column = next((name for name, kind in kinds.items() if kind == "Image"), None)
    if column is None:
        raise DataError(f"hf:{argument} has no column of images: it has {listed(list(kinds))}.")
    label = next((name for name, kind in kinds.items() if kind == "ClassLabel"), None)
    if label is None:
        label = next((name for name in TARGETS if name in kinds), None)
    open_one = partial(_open, part, column)
    if label is None:
        return Photos(open_one, [None] * len(part))
    names = getattr(part.features[label], "names", None)
    labels = list(part[label])
    if classes is not None:
        if names is None:
            raise UsageError(f"the labels of hf:{argument} have no names: leave out classes.")
        numbering = Numbering.of_file(Path(classes).expanduser(), names)
        own = [numbering.labels[name] for name in names]
        return Photos(open_one, [own[one] for one in labels], numbering.classes)
    return Photos(open_one, labels, None if names is None else len(names))


def _open(part: Any, column: str, index: int) -> Image:
    photo: Image = part[index][column].convert("RGB")
    return photo

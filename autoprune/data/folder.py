"""Image files in class folders, or without labels, read by torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.data.class_names import Numbering
from autoprune.data.normalization import parse_normalization
from autoprune.data.photos import USUAL_SIZE, PhotoForm, Photos, PhotoSplit
from autoprune.data.splits import Splits
from autoprune.errors import DataError, UsageError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image


def load_image_folder(
    argument: str,
    normalize: str | None,
    classes: str | None = None,
    image_size: int = USUAL_SIZE,
) -> Splits:
    """Read `DIR/train`, `DIR/val` and `DIR/test`; without these, read DIR itself as train.

    Every image is resized, cropped to its central square and normalised. Without a train
    folder, val takes its place. The file `classes` gives the label of each class folder; without
    it, labels number the sorted class folders of ALL splits, so that a split which lacks some
    classes still agrees with the others. Images outside class folders never have labels.

    Args:
        argument: DIR.
        normalize: see `parse_normalization`.
        classes: a text file with a class name per line, in the order of the network's outputs.
        image_size: side of the square, pixels; the shorter side is 8/7 of it before cropping.

    Raises:
        UsageError: the folder is missing, the file does not name its class folders, or torchvision
            is not installed.
        DataError: there are no images.
    """
    folder = Path(argument).expanduser()
    if not folder.is_dir():
        raise UsageError(f"no such folder: {argument!r}; write imagefolder:DIR.")
    roots = {name: folder / name for name in ("train", "val", "test") if (folder / name).is_dir()}
    if "train" not in roots:
        # Images directly in DIR, or val in place of a missing train.
        roots["train"] = roots.pop("val", folder)
    if roots["train"] == folder and "test" in roots:
        raise UsageError(f"{argument!r} has test but neither train nor val: add one of them.")
    form = PhotoForm(parse_normalization(normalize, channels=3), image_size)
    folders = sorted({name for root in roots.values() for name in _class_folders(root)})
    if classes is None:
        numbering = Numbering.of_folders(folders)
    else:
        numbering = Numbering.of_file(Path(classes).expanduser(), folders)
    splits = {name: PhotoSplit(_photos(root, numbering), form) for name, root in roots.items()}
    return Splits.of(splits)


def _class_folders(root: Path) -> list[str]:
    return [child.name for child in root.iterdir() if child.is_dir() and child.name[0] != "."]


def _photos(root: Path, numbering: Numbering) -> Photos:
    try:
        from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset
    except ImportError as error:
        raise UsageError("imagefolder needs torchvision: pip install autoprune[vision].") from error
    labels = {name: numbering.labels[name] for name in _class_folders(root)}
    files: list[tuple[str, int | None]]
    try:
        if labels:
            files = [*make_dataset(root, labels, extensions=IMG_EXTENSIONS, allow_empty=True)]
        else:
            paths = sorted(path for path in root.iterdir() if path.is_file())
            files = [(str(p), None) for p in paths if p.suffix.lower() in IMG_EXTENSIONS]
    except OSError as error:
        raise DataError(f"cannot read images in {str(root)!r}: {first_line(error)}") from error
    if not files:
        raise DataError(
            f"no images in {str(root)!r}: put them in {root}/CLASS/, or right there if they have "
            "no labels."
        )
    paths_of, labels_of = zip(*files, strict=True)
    return Photos(_Opened(paths_of), labels_of, numbering.classes if labels else None)


class _Opened:
    """Opens files by their index."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths

    def __call__(self, index: int) -> Image:
        from torchvision.datasets.folder import pil_loader

        photo: Image = pil_loader(self._paths[index])
        return photo

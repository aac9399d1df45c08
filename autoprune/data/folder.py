"""Image files in class folders, read by torchvision."""

from __future__ import annotations

from pathlib import Path

from autoprune.data.normalization import Normalization, parse_normalization
from autoprune.data.splits import DatasetSplit, Splits
from autoprune.errors import DataError, UsageError, first_line


def load_image_folder(argument: str, normalize: str | None) -> Splits:
    """Read `DIR/train`, `DIR/val` and `DIR/test`, or class folders right in DIR as train.

    Every image is resized to 256, cropped to the central 224 and normalised. Where there is no
    train folder, val takes its place. Labels number the class folders of ALL splits, sorted, so
    that a split which lacks some classes still agrees with the others.

    Raises:
        UsageError: the folder is missing or torchvision is not installed.
        DataError: there are no class folders or no images.
    """
    folder = Path(argument).expanduser()
    if not folder.is_dir():
        raise UsageError(f"no such folder: {argument!r}; write imagefolder:DIR.")
    roots = {name: folder / name for name in ("train", "val", "test") if (folder / name).is_dir()}
    if "train" not in roots:
        # Class folders right in DIR; or val without train, which then serves as train.
        roots["train"] = roots.pop("val", folder)
    if roots["train"] == folder and "test" in roots:
        raise UsageError(f"{argument!r} has test but neither train nor val: add one of them.")
    normalization = parse_normalization(normalize, channels=3)
    classes = sorted({child.name for root in roots.values() for child in _class_folders(root)})
    splits = {name: _open(root, classes, normalization) for name, root in roots.items()}
    return Splits(**splits)


def _class_folders(root: Path) -> list[Path]:
    found = sorted(child for child in root.iterdir() if child.is_dir())
    if not found:
        raise DataError(f"no class folders in {str(root)!r}: images belong in {root}/CLASS/.")
    return found


def _open(root: Path, classes: list[str], normalization: Normalization) -> DatasetSplit:
    try:
        from torchvision import transforms
        from torchvision.datasets import ImageFolder
    except ImportError as error:
        raise UsageError("imagefolder needs torchvision: pip install autoprune[vision].") from error
    transform = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            normalization,
        ]
    )
    label = [classes.index(child.name) for child in _class_folders(root)]
    try:
        images = ImageFolder(root, transform, target_transform=label.__getitem__, allow_empty=True)
    except OSError as error:
        raise DataError(f"cannot read images in {str(root)!r}: {first_line(error)}") from error
    if len(images) == 0:
        raise DataError(f"no images in {str(root)!r}: put them in {root}/CLASS/.")
    return DatasetSplit(images)

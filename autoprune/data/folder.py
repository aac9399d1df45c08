"""Image files in class folders, or without labels, read by torchvision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor
from torch.utils.data import Dataset

from autoprune.data.class_names import Numbering
from autoprune.data.normalization import Normalization, parse_normalization
from autoprune.data.splits import Augment, DatasetSplit, Pictures, Splits
from autoprune.errors import DataError, UsageError, first_line

Read: TypeAlias = Callable[[str], Tensor]
"""(path of an image file) → the image as the network takes it."""

# The shorter side that images are resized to, and the central square that is cut out, pixels.
RESIZED, CROPPED = 256, 224


def load_image_folder(argument: str, normalize: str | None, classes: str | None = None) -> Splits:
    """Read `DIR/train`, `DIR/val` and `DIR/test`; without these, read DIR itself as train.

    Every image is resized to 256, cropped to the central 224 and normalised. Without a train
    folder, val takes its place. The file `classes` gives the label of each class folder; without
    it, labels number the sorted class folders of ALL splits, so that a split which lacks some
    classes still agrees with the others. Images outside class folders never have labels.

    Args:
        argument: DIR.
        normalize: see `parse_normalization`.
        classes: a text file with a class name per line, in the order of the network's outputs.

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
    normalization = parse_normalization(normalize, channels=3)
    folders = sorted({name for root in roots.values() for name in _class_folders(root)})
    if classes is None:
        numbering = Numbering.of_folders(folders)
    else:
        numbering = Numbering.of_file(Path(classes).expanduser(), folders)
    splits = {name: _open(root, numbering, normalization) for name, root in roots.items()}
    return Splits.of(splits)


def _class_folders(root: Path) -> list[str]:
    return [child.name for child in root.iterdir() if child.is_dir() and child.name[0] != "."]


def _open(root: Path, numbering: Numbering, normalization: Normalization) -> FolderSplit:
    try:
        from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset
    except ImportError as error:
        raise UsageError("imagefolder needs torchvision: pip install autoprune[vision].") from error
    labels = {name: numbering.labels[name] for name in _class_folders(root)}
    try:
        if labels:
            files = make_dataset(root, labels, extensions=IMG_EXTENSIONS, allow_empty=True)
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
    return FolderSplit(files, normalization, numbering.classes if labels else None)


class FolderSplit(DatasetSplit):
    """Image files, brought to one size and normalised when they are read."""

    def __init__(
        self,
        files: Sequence[tuple[str, int | None]],
        normalization: Normalization,
        classes: int | None,
        augment: Augment | None = None,
    ) -> None:
        """Hold the paths of files with their labels.

        Args:
            files: (path, label), the label None where there is none.
            normalization: of the values in [0, 1].
            classes: number of classes that the labels number.
            augment: takes the place of resizing and cropping.
        """
        read = _reader(normalization) if augment is None else _changer(augment, normalization)
        super().__init__(_Images(files, read), classes=classes)
        self._files, self._normalization = files, normalization

    @property
    def pictures(self) -> Pictures:
        """What is known of the images."""
        return Pictures((CROPPED, CROPPED), is_cropped=True)

    def augmented(self, augment: Augment) -> FolderSplit:
        """Return the same files, each image changed."""
        return FolderSplit(self._files, self._normalization, self.classes, augment)


def _reader(normalization: Normalization) -> Read:
    from torchvision import transforms
    from torchvision.datasets.folder import default_loader

    transform = transforms.Compose(
        [
            transforms.Resize(RESIZED),
            transforms.CenterCrop(CROPPED),
            transforms.ToTensor(),
            normalization,
        ]
    )
    return lambda file: transform(default_loader(file))


def _changer(augment: Augment, normalization: Normalization) -> Read:
    from torchvision.datasets.folder import default_loader
    from torchvision.transforms.functional import pil_to_tensor

    def read(file: str) -> Tensor:
        return normalization(augment(pil_to_tensor(default_loader(file))).float() / 255)

    return read


class _Images(Dataset[Any]):
    """Image files with their labels; without labels the items are images alone."""

    def __init__(self, files: Sequence[tuple[str, int | None]], read: Read) -> None:
        self._files = files
        self._read = read

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Any:
        file, label = self._files[index]
        image = self._read(file)
        return image if label is None else (image, label)

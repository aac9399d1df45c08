"""Datasets in the form of Hugging Face's `datasets`, saved on disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from split_labels import labels_of

from autoprune.data import load_splits
from autoprune.data.sources import absolute_data
from autoprune.errors import DataError, UsageError


@pytest.fixture(scope="module")
def datasets() -> Any:
    return pytest.importorskip("datasets", reason="datasets is not installed")


def saved(datasets: Any, folder: Path, names: tuple[str, ...], label: str = "label") -> str:
    """Save splits of three images each, of the classes cow, ant and cow."""
    from PIL import Image

    images = [Image.new("L", (40, 30), level) for level in (0, 128, 255)]
    features = datasets.Features(
        {"image": datasets.Image(), label: datasets.ClassLabel(names=["ant", "bee", "cow"])}
    )
    part = datasets.Dataset.from_dict({"image": images, label: [2, 0, 2]}, features=features)
    datasets.DatasetDict(dict.fromkeys(names, part)).save_to_disk(str(folder))
    return f"hf:{folder}"


def test_splits_labels_and_sizes(datasets: Any, tmp_path: Path) -> None:
    spec = saved(datasets, tmp_path / "data", ("train", "validation", "test"), "fine_label")
    splits = load_splits(spec, "none", image_size=32)
    assert splits.val is not None and splits.test is not None
    assert labels_of(splits.train) == labels_of(splits.val) == [2, 0, 2]
    samples = splits.train.take([0, 2])
    assert samples.inputs.shape == (2, 3, 32, 32)
    assert samples.inputs.mean((1, 2, 3)).tolist() == [0.0, 1.0]
    assert splits.train.classes == 3


def test_a_file_says_which_output_a_class_means(datasets: Any, tmp_path: Path) -> None:
    spec = saved(datasets, tmp_path / "data", ("train",))
    names = tmp_path / "names.txt"
    names.write_text("cow\nbee\nfly\nant\n")
    splits = load_splits(spec, classes=str(names))
    assert labels_of(splits.train) == [0, 3, 0] and splits.train.classes == 4


def test_a_dataset_without_splits_is_train(datasets: Any, tmp_path: Path) -> None:
    part = datasets.load_from_disk(saved(datasets, tmp_path / "all", ("train",))[3:])["train"]
    part.remove_columns("label").save_to_disk(str(tmp_path / "one"))
    splits = load_splits(f"hf:{tmp_path}/one")
    assert len(splits.train) == 3 and splits.val is None
    assert splits.train.take([1]).targets is None


def test_mistakes(datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = saved(datasets, tmp_path / "a", ("extra",))
    with pytest.raises(DataError, match="neither train nor validation: it has extra"):
        load_splits(spec)
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "b"))
    with pytest.raises(DataError, match="no column of images: it has text"):
        load_splits(f"hf:{tmp_path}/b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_splits(f"hf:{tmp_path}/empty")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match="pip install datasets"):
        load_splits(spec)


def test_paths_become_absolute_and_names_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert absolute_data("hf:mine") == f"hf:{tmp_path}/mine"
    assert absolute_data("hf:someone/cats") == "hf:someone/cats"

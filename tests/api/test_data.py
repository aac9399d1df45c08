"""What a search makes of the data that it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from searches import TINY, Notes, classifier
from torch import nn
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler, WeightedRandomSampler

import autoprune
from autoprune.errors import DataError


class Watched(Dataset[Any]):
    """Images that note which of them were asked for."""

    def __init__(self, classes: int = 4) -> None:
        self.images = torch.randn(400, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        self.classes, self.asked = classes, set[int]()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        self.asked.add(index)
        return self.images[index], index % self.classes


def test_splits_that_samplers_make_stay_apart(tmp_path: Path) -> None:
    data, progress = Watched(), Notes()
    weights = [0.0] * 340 + [1.0] * 40 + [0.0] * 20
    loaders = {
        "train": DataLoader(data, 16, sampler=SubsetRandomSampler(range(300))),
        "val": DataLoader(data, 16, sampler=SubsetRandomSampler(range(300, 340))),
        "test": DataLoader(data, 16, sampler=WeightedRandomSampler(weights, 40)),
    }
    run = autoprune.search(
        classifier(), data=loaders, output=tmp_path / "run", progress=progress, **TINY
    )
    assert run.result["score"]["split"] == "test" and run.result["score"]["samples"] == 40
    with torch.no_grad():
        right = classifier()(data.images[340:380]).argmax(1) == torch.arange(340, 380) % 4
    assert run.result["score"]["dense"] == pytest.approx(float(right.double().mean()))
    assert not data.asked & set(range(380, 400))
    assert (
        "the test loader draws by weights: of its 400 samples the 40 that it can draw are used, "
        "each once" in progress.notes
    )


class Folder(Watched):
    """Labelled as torchvision's ImageFolder labels."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.samples = self.images
        self.class_to_idx = {f"class {i}": i for i in range(classes)}


def test_class_folders_that_are_not_the_outputs(tmp_path: Path) -> None:
    assert autoprune.search(classifier(), data=Folder(4), output=tmp_path / "run", **TINY)
    for classes in (3, 7):
        with pytest.raises(
            DataError, match=f"the data has {classes} classes but the network has 4"
        ):
            autoprune.search(classifier(), data=Folder(classes), output=tmp_path / "x", **TINY)
    assert not (tmp_path / "x").exists()


def test_one_output_number_is_compared_with_the_dense_networks(tmp_path: Path) -> None:
    network = nn.Sequential(*list(classifier())[:-1], nn.Linear(8, 1))
    run = autoprune.search(network, data=Watched(), output=tmp_path / "run", **TINY)
    score = run.result["score"]
    assert score["dense"] == 0.0 and -1.0 < score["pruned"] < 0.0 and score["kl"] is None


def test_odd_accuracy_is_told(tmp_path: Path) -> None:
    progress = Notes()
    data = Watched(classes=1)
    autoprune.search(classifier(), data=data, output=tmp_path / "run", progress=progress, **TINY)
    assert any("images have the label 0" in text for text in progress.notes)

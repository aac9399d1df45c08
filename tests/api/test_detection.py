"""A pruned detector is fine-tuned by the losses that it computes itself, or by the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

import autoprune
from autoprune.errors import UsageError

SIZE = 32


class Squares(Dataset[Any]):
    """Pictures with one bright square each, and the box around it."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.images = 0.1 * torch.rand(count, 3, SIZE, SIZE, generator=generator)
        self.corners = torch.randint(0, 16, (count, 2), generator=generator)
        for image, (x, y) in zip(self.images, self.corners.tolist(), strict=True):
            image[:, y : y + 12, x : x + 12] = 1.0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        if index >= len(self):
            raise IndexError
        box = torch.cat([self.corners[index], self.corners[index] + 12]).float()
        return self.images[index], {"boxes": box[None], "labels": torch.ones(1).long()}


def detector() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        layer
        for inputs, outputs in ((3, 8), (8, 12), (12, 12))
        for layer in (
            nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )
    ]  # fmt: skip
    backbone: Any = nn.Sequential(*layers)
    backbone.out_channels = 12
    anchors = AnchorGenerator(((12,),), ((1.0,),))
    sizes = {"min_size": SIZE, "max_size": SIZE, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    model: nn.Module = RetinaNet(backbone, 2, anchor_generator=anchors, **sizes)
    return model.eval()


def data() -> dict[str, Any]:
    def collate(batch: Any) -> Any:
        return tuple(zip(*batch, strict=True))

    sizes = {"train": 24, "val": 12}
    return {
        name: DataLoader(Squares(count, seed), batch_size=4, collate_fn=collate)
        for seed, (name, count) in enumerate(sizes.items())
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detection") / "run"
    autoprune.search(
        detector(), data=data(), budget="flops=0.5", strategy="uniform", recover="off",
        evaluate=lambda network: 0.0, calibration_samples=8, search_samples=4,
        selection_samples=4, trials=1, output=path,
    )  # fmt: skip
    return path


def losses(network: nn.Module) -> float:
    """The detector's own losses on new pictures."""
    pictures = Squares(16, 9)
    images, targets = zip(*(pictures[i] for i in range(16)), strict=True)
    torch.manual_seed(0)
    with torch.no_grad():
        found: dict[str, Tensor] = network.train()(list(images), list(targets))
    network.eval()
    return float(sum(found.values()))


def test_a_detector_learns_from_its_own_losses(run: Path) -> None:
    cut = losses(autoprune.load_pruned(detector(), run, weights="cut"))
    tuned = autoprune.finetune(
        detector(),
        run,
        data=data(),
        epochs=10,
        batch=6,
        optimizer="adamw",
        learning_rate=0.01,
        overwrite=True,
    )
    assert losses(tuned.model) < 0.8 * cut
    seen = tuned.result["finetune"]["validation"]
    assert seen["best"]["loss"] < seen["first"]["loss"]
    assert losses(autoprune.load_pruned(detector(), run)) == losses(tuned.model)


def test_a_loss_is_given_the_losses_and_the_boxes(run: Path) -> None:
    given = []

    def loss(found: Any, targets: Any) -> Tensor:
        given.append((sorted(found), [len(one["boxes"]) for one in targets]))
        total: Tensor = found["classification"] + 0.1 * found["bbox_regression"]
        return total

    autoprune.finetune(detector(), run, data=data(), epochs=1, batch=4, loss=loss, overwrite=True)
    assert given[0] == (["bbox_regression", "classification"], [1, 1, 1, 1])


def test_what_changes_class_labels_is_refused(run: Path) -> None:
    with pytest.raises(UsageError, match=r"mixup and cutmix.*for detectors"):
        autoprune.finetune(detector(), run, data=data(), epochs=1, mixup=0.2, overwrite=True)

"""Searches of networks for all kinds of tasks, with a user's loaders and scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from searches import TINY, Notes
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import autoprune
from autoprune.errors import ModelError
from autoprune.structure.inputs import outputs_of

ROWS = 48


def random(*shape: int) -> Tensor:
    return torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(0))


IMAGES = random(3, 16, 16)
CLASSES = torch.arange(ROWS) % 4


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.down3 = block(3, 8), block(8, 12), block(12, 16)
        self.up2, self.up1 = nn.ConvTranspose2d(16, 12, 2, 2), nn.ConvTranspose2d(12, 8, 2, 2)
        self.merge2, self.merge1 = block(24, 12), block(16, 8)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.down3(F.max_pool2d(b, 2))
        b = self.merge2(torch.cat([self.up2(c), b], 1))
        return {"out": self.head(self.merge1(torch.cat([self.up1(b), a], 1)))}


class SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.inside, self.outside = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.up, self.tail = nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        out: Tensor = self.tail(self.up(x + self.outside(F.relu(self.inside(x)))))
        return out


class Audio(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv1d(1, 8, 9, 4), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(4),
            nn.Conv1d(8, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
            nn.Linear(12, 4),
        )  # fmt: skip


class Reading(nn.Module):
    """Convolutions, a recurrent network and a class for every position."""

    def __init__(self) -> None:
        super().__init__()
        self.seeing, self.shape = block(1, 8), block(8, 12)
        self.reading = nn.LSTM(12, 10, bidirectional=True, batch_first=True)
        self.hidden, self.head = nn.Linear(20, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.shape(self.seeing(x)).mean(2).transpose(1, 2)
        out: Tensor = self.head(F.relu(self.hidden(self.reading(seen)[0])))
        return out


class Video(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(3, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8), nn.ReLU(),
            nn.MaxPool3d((1, 2, 2)), nn.Conv3d(8, 10, (3, 1, 1)), nn.ReLU(),
            nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(10, 4),
        )  # fmt: skip


class Paired(nn.Module):
    """Two inputs and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.both = block(3, 8), block(3, 8), block(16, 10)
        self.flow, self.sure = nn.Conv2d(10, 2, 3, padding=1), nn.Linear(10, 1)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.both(torch.cat([self.left(left), self.right(right)], 1))
        return self.flow(seen), self.sure(seen.mean((2, 3)))


class Case(NamedTuple):
    """A task: the network, samples, the score (None for the default), and what stays whole."""

    make: Callable[[], nn.Module]
    data: Dataset[Any]
    evaluate: Callable[[nn.Module], float] | None = None
    frozen: Sequence[str] = ()
    has_class_scores: bool = False


def correct_pixels(network: nn.Module) -> float:
    with torch.no_grad():
        found = network(IMAGES[:8])["out"].argmax(1)
    return float((found == IMAGES[:8].argmax(1)).float().mean())


CASES = {
    "segmentation": Case(UNet, TensorDataset(IMAGES, IMAGES.argmax(1))),
    "segmentation by its own score": Case(
        UNet, TensorDataset(IMAGES, IMAGES.argmax(1)), correct_pixels
    ),
    "super-resolution": Case(
        SuperResolution, TensorDataset(random(3, 8, 8), IMAGES), frozen=["up"]
    ),
    "audio": Case(Audio, TensorDataset(random(1, 200), CLASSES), has_class_scores=True),
    "reading": Case(
        Reading, TensorDataset(random(1, 8, 12), random(12).long()), frozen=["shape.0"]
    ),
    "video": Case(Video, TensorDataset(random(3, 4, 8, 8), CLASSES), has_class_scores=True),
    "several inputs and outputs": Case(
        Paired, TensorDataset(IMAGES, IMAGES.flip(0), random(2, 16, 16))
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_tasks(name: str, tmp_path: Path) -> None:
    case, told = CASES[name], Notes()
    torch.manual_seed(0)
    model = case.make()
    run = autoprune.search(
        model,
        data=DataLoader(case.data, batch_size=8, shuffle=True),
        evaluate=case.evaluate,
        output=tmp_path / "run",
        progress=told,
        **{**TINY, "recover": 0.3},
    )
    costs, score = run.result["costs"], run.result["score"]
    assert costs["pruned"]["flops"] <= 0.5 * costs["dense"]["flops"]
    assert not set(case.frozen) & run.result["widths"].keys()
    assert score["metric"] == ("top1" if case.has_class_scores else "custom")
    assert score["split"] == ("user" if case.evaluate else "selection")
    if not case.has_class_scores and case.evaluate is None:
        assert score["dense"] == 0.0 and -2.0 < score["pruned"] < 0.0
        assert any("minus the distance of its outputs" in text for text in told.notes)
    loader = DataLoader(case.data, batch_size=4)
    *inputs, _ = next(iter(loader))
    loaded = autoprune.load_pruned(case.make(), run.path)
    with torch.no_grad():
        one, other = (outputs_of(network(*inputs)) for network in (run.model, loaded))
    assert all(torch.equal(value, other[place]) for place, value in one.items())


class Boxes(Dataset[Any]):
    """Images with as many boxes as are drawn, in the form of torchvision's references."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> Any:
        if index >= ROWS:
            raise IndexError
        count = 1 + index % 3
        return IMAGES[index], {"boxes": torch.zeros(count, 4), "labels": torch.ones(count).long()}


class Detector(nn.Module):
    """Finds a changing number of boxes in every image of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(3, 8), block(8, 12))
        self.boxes, self.scores = nn.Conv2d(12, 4, 1), nn.Conv2d(12, 1, 1)

    def forward(self, images: Any, targets: Any = None) -> list[dict[str, Tensor]]:
        seen = self.body(torch.stack([*images]))
        found = []
        for boxes, scores in zip(self.boxes(seen), self.scores(seen).sigmoid(), strict=True):
            likely = scores[0] > scores.mean()
            found.append({"boxes": boxes[:, likely].T, "scores": scores[0, likely]})
        return found


def test_detection_with_the_loader_that_detectors_are_trained_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Detector()
    loader = DataLoader(
        Boxes(), batch_size=4, collate_fn=lambda batch: tuple(zip(*batch, strict=True))
    )
    with pytest.raises(ModelError, match=r"as many tensors as there are samples.*evaluate="):
        autoprune.search(model, data=loader, output=tmp_path / "run", **TINY)

    def evaluate(network: nn.Module) -> float:
        images, targets = next(iter(loader))
        with torch.no_grad():
            found = network(images)
        wanted = zip(found, targets, strict=True)
        return -float(sum(abs(len(one["boxes"]) - len(two["boxes"])) for one, two in wanted))

    run = autoprune.search(
        model, data=loader, evaluate=evaluate, output=tmp_path / "run", **{**TINY, "recover": 0.3}
    )
    assert run.result["costs"]["pruned"]["flops"] <= 0.5 * run.result["costs"]["dense"]["flops"]
    assert {"body.0.0", "body.1.0"} == run.result["widths"].keys()


def test_a_distance_may_compare_what_is_returned_for_every_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    loader = DataLoader(
        Boxes(), batch_size=4, collate_fn=lambda batch: tuple(zip(*batch, strict=True))
    )

    def distance(found: Any, dense: Any) -> Tensor:
        pairs = zip(found, dense, strict=True)
        return torch.stack(
            [(one["scores"].mean() - two["scores"].mean()).square() for one, two in pairs]
        ).mean()

    told = Notes()
    run = autoprune.search(
        Detector(),
        data=loader,
        distance=distance,
        output=tmp_path / "run",
        progress=told,
        **{**TINY, "recover": 0.5},
    )
    score = run.result["score"]
    assert score["dense"] == 0.0 and score["pruned"] < 0.0
    assert not [text for text in told.notes if "no recovery" in text]

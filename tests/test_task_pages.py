"""The helpers of docs/tasks.md run, and say what they are said to."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from searches import TINY
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autoprune

GENERATOR = torch.Generator().manual_seed(0)


def helpers(root: Path, name: str, **given: Any) -> dict[str, Any]:
    """Run the example on the page that defines a function; return what it defines."""
    page = (root / "docs" / "tasks.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    (block,) = (one for one in blocks if f"def {name}(" in one)
    exec(compile(block, name, "exec"), given)
    return given


class Told(nn.Module):
    """Answers what it was told, batch after batch."""

    def __init__(self, *answers: Any) -> None:
        super().__init__()
        self.answers = iter(answers)

    def forward(self, x: Any) -> Any:
        return next(self.answers)


def test_mean_iou(root: Path) -> None:
    masks = torch.tensor([[[0, 0, 1, 255]], [[1, 1, 2, 2]]])
    found = torch.tensor([[[0, 1, 1, 0]], [[1, 1, 2, 0]]])
    scores = F.one_hot(found, 4).movedim(-1, 1).float()
    loader = [(torch.zeros(2), masks)]
    own = helpers(root, "mean_iou", val=loader)
    # Class 0: 1 of 3; class 1: 3 of 4; class 2: 1 of 2; nothing of class 3.
    expected = (1 / 3 + 3 / 4 + 1 / 2) / 3
    assert own["mean_iou"](Told(scores), loader, 4) == pytest.approx(expected)
    assert own["mean_iou"](Told({"out": scores}), loader, 4) == pytest.approx(expected)


def test_psnr(root: Path) -> None:
    wanted = torch.zeros(2, 3, 4, 4)
    found = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 0.01)])
    own = helpers(root, "psnr", val=[(wanted, wanted)])
    assert own["evaluate"](Told(found)) == pytest.approx(30.0)  # of 20 and 40 dB


@pytest.mark.filterwarnings("ignore")
def test_mean_average_precision(root: Path) -> None:
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    box, far = torch.tensor([[10.0, 10.0, 50.0, 50.0]]), torch.tensor([[60.0, 60.0, 90.0, 90.0]])
    label, score = torch.tensor([1]), torch.tensor([0.9])
    images = (torch.zeros(3, 99, 99), torch.zeros(3, 99, 99))
    targets = ({"boxes": box, "labels": label}, {"boxes": box, "labels": label})
    own = helpers(root, "mean_average_precision", val=[(images, targets)])
    right = {"boxes": box, "labels": label, "scores": score}
    wrong = {"boxes": far, "labels": label, "scores": torch.tensor([0.5])}
    assert own["evaluate"](Told([right, right])) == pytest.approx(1.0)
    half = own["evaluate"](Told([right, wrong]))
    assert half == pytest.approx(0.505, abs=0.01)  # recall 1/2, over 101 points
    assert own["evaluate"](Told([wrong, wrong])) == 0.0


class Depth(nn.Module):
    """Two images from one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.depth, self.edges = (nn.Conv2d(8, 1, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        seen = self.body(x)
        return {"depth": self.depth(seen), "edges": self.edges(seen)}


def test_several_outputs_are_weighed(root: Path, tmp_path: Path, monkeypatch: Any) -> None:
    page = (root / "docs" / "tasks.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(run = .*?)^```", page, re.M | re.S)
    data = TensorDataset(torch.randn(40, 3, 8, 8, generator=GENERATOR), torch.zeros(40, 1, 8, 8))
    loader = DataLoader(data, batch_size=8)
    monkeypatch.chdir(tmp_path)
    asked: list[float] = []

    def search(*args: Any, distance: Any, **options: Any) -> Any:
        def noted(outputs: Any, dense: Any) -> Tensor:
            found: Tensor = distance(outputs, dense)
            asked.append(float(found))
            return found

        return autoprune.search(*args, distance=noted, **{**TINY, **options, "recover": 0.5})

    stand_in = SimpleNamespace(search=search)
    given = {"autoprune": stand_in, "F": F, "network": Depth(), "train": loader, "val": loader}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(block, "distance", "exec"), given)
    assert asked[0] == 0.0 and max(asked) > 0.0

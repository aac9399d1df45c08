"""Searches on data of every form and networks of every precision."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from searches import TINY, Notes
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import autoprune
from autoprune.errors import DataError

ROWS = 90
IMAGES = torch.randn(ROWS, 1, 6, 6, generator=torch.Generator().manual_seed(0))
VECTORS = torch.randn(ROWS, 5, generator=torch.Generator().manual_seed(1))
TOKENS = torch.arange(ROWS * 3).reshape(ROWS, 3) % 7
LABELS = torch.arange(ROWS) % 4


class Rows(Dataset[Any]):
    """Samples made from their numbers."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> Any:
        if index >= ROWS:
            raise IndexError
        return self.make(index)


class Fused(nn.Module):
    """An image, a vector and, where there are any, tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.line = nn.Linear(5, 8)
        self.words = nn.Embedding(7, 8)
        self.hidden = nn.Linear(24, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, image: Tensor, vector: Tensor, tokens: Tensor | None = None) -> Tensor:
        seen = F.relu(self.bn(self.conv(image))).mean((2, 3))
        read = 0 * seen if tokens is None else self.words(tokens).mean(1)
        both = torch.cat([seen, F.relu(self.line(vector)), read], 1)
        return self.head(F.relu(self.hidden(both)))  # type: ignore[no-any-return]


FORMS = {
    "pair": (lambda i: ((IMAGES[i], VECTORS[i]), LABELS[i]), {}),
    "dict": (lambda i: ({"vector": VECTORS[i], "image": IMAGES[i]}, LABELS[i]), {}),
    "named": (
        lambda i: {
            "image": IMAGES[i].double(),
            "labels": LABELS[i],
            "tokens": TOKENS[i],
            "vector": VECTORS[i].half(),
        },
        {"recover": 0.5, "importance": "taylor"},
    ),
    "unlabelled": (lambda i: {"image": IMAGES[i], "vector": VECTORS[i]}, {"importance": "nisp"}),
    "three": (lambda i: (IMAGES[i], VECTORS[i], LABELS[i]), {"strategy": "netadapt", "trials": 4}),
}


@pytest.mark.parametrize("form", FORMS)
def test_inputs_of_every_form(form: str, tmp_path: Path) -> None:
    make, options = FORMS[form]
    model = Fused().eval()
    run = autoprune.search(model, data=Rows(make), output=tmp_path / "run", **{**TINY, **options})
    costs = run.result["costs"]
    assert costs["pruned"]["flops"] <= 0.5 * costs["dense"]["flops"]
    assert (run.result["score"]["dense"] is None) == (form == "unlabelled")
    loaded = autoprune.load_pruned(Fused(), run.path)
    with torch.no_grad():
        inputs = (IMAGES, VECTORS, TOKENS) if form == "named" else (IMAGES, VECTORS)
        found, again = (m(*inputs) for m in (run.model, loaded))
    assert torch.equal(found, again)


def test_all_forms_find_the_same(tmp_path: Path) -> None:
    results = []
    for form in ("pair", "dict", "three"):
        run = autoprune.search(
            Fused().eval(), data=Rows(FORMS[form][0]), output=tmp_path / form, **TINY
        )
        results.append((run.result["widths"], run.result["score"]["kl"]))
    assert results[0] == results[1] == results[2]


def test_example_inputs_in_the_form_of_the_data(tmp_path: Path) -> None:
    data = Rows(FORMS["pair"][0])
    example = (IMAGES[:3].double(), VECTORS[:3])
    run = autoprune.search(Fused(), example, data=data, output=tmp_path / "a", **TINY)
    assert run.result["widths"]
    named = {"image": IMAGES[:3], "vector": VECTORS[:3]}
    with pytest.raises(DataError, match=r"samples of image \(1, 6, 6\), vector \(5,\), but the"):
        autoprune.search(Fused(), named, data=data, output=tmp_path / "b", **TINY)


def test_three_parts_for_a_network_of_one_input(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(128, 4))
    data = TensorDataset(IMAGES, VECTORS, LABELS)
    with pytest.raises(DataError, match=r"forward\(input\) does not take the data's inputs"):
        autoprune.search(model, data=data, output=tmp_path / "a", **TINY)
    assert not (tmp_path / "a").exists()


class Classifier(nn.Module):
    """A network of a few layers, or the same under autocast."""

    def __init__(self, autocast: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.autocast = autocast
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3),
            nn.ReLU(), nn.Flatten(), nn.Linear(32, 4),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return self.net(x).float() if self.autocast else self.net(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64", "autocast"])
@pytest.mark.parametrize("importance", ["obs", "taylor"])
def test_networks_of_every_precision(kind: str, importance: str, tmp_path: Path) -> None:
    dtype = torch.float32 if kind == "autocast" else getattr(torch, kind)
    model = Classifier(kind == "autocast").to(dtype).eval()
    options = {**TINY, "recover": 0.5, "importance": importance}
    data = TensorDataset(IMAGES.half(), LABELS)
    run = autoprune.search(model, data=data, output=tmp_path / "run", **options)
    plain = Classifier().eval()
    same = autoprune.search(plain, data=data, output=tmp_path / "plain", **options)
    assert {one.dtype for one in run.model.parameters()} == {dtype}
    assert run.result["costs"]["pruned"]["flops"] == same.result["costs"]["pruned"]["flops"]
    # The one-shot repair of the same cut; half precision adds its rounding.
    assert run.result["search"]["best_value"] == pytest.approx(
        same.result["search"]["best_value"], rel=0.3, abs=1e-4
    )


def test_a_search_inside_autocast_keeps_all_finalists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip
    data = TensorDataset(IMAGES, LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        autoprune.search(model, data=data, output=tmp_path / "run", progress=True, **TINY)
    assert "drops out" not in capsys.readouterr().err


@dataclasses.dataclass
class Found:
    boxes: Tensor
    classes: Tensor


def test_outputs_in_a_dataclass_are_imitated(tmp_path: Path) -> None:
    class Detector(Classifier):
        def forward(self, x: Tensor) -> Any:
            scores = super().forward(x)
            return Found(scores, scores.argmax(1))

    model, told = Detector().eval(), Notes()
    with torch.no_grad():
        wanted = model(IMAGES).boxes
    run = autoprune.search(
        model,
        data=TensorDataset(IMAGES),
        evaluate=lambda network: -float(F.mse_loss(network(IMAGES).boxes, wanted)),
        output=tmp_path / "run",
        progress=told,
        **{**TINY, "recover": 1.0},
    )
    score = run.result["score"]
    assert score["recovered"] > score["pruned"]
    assert not [text for text in told.notes if "no recovery" in text]


def test_a_resumed_search_repairs_on_as_many_samples(tmp_path: Path) -> None:
    told, few = Notes(), {"calibration_samples": 30, "search_samples": 20, "selection_samples": 20}
    options = {**TINY, **few}
    data = TensorDataset(IMAGES, LABELS)
    # Four times the widest activation, 8 channels of 16 pixels.
    memory = 12 * 4 * 4 * 8 * 16
    run = autoprune.search(
        Classifier(), data=data, output=tmp_path / "a", progress=told, repair_memory=memory,
        **options,
    )  # fmt: skip
    assert "uses 12 of 30 calibration samples: more would not fit into" in "".join(told.notes)
    assert "repair_samples = 12" in (run.path / "config.toml").read_text()
    config = run.path / "config.toml"
    config.write_text(config.read_text().replace("repair_samples = 12", "repair_samples = 7"))
    again = autoprune.search(
        Classifier(), data=data, output=run.path, resume=True, repair_memory=memory,
        **{**options, "trials": 2},
    )  # fmt: skip
    assert "repair_samples = 7" in (again.path / "config.toml").read_text()

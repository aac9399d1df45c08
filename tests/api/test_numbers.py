"""A search on a network that uses numbers of its modules, and what is loaded again from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from searches import TINY, dataset
from torch import Tensor, nn

import autoprune
from autoprune.errors import ModelError


class Stored(nn.Module):
    """A classifier with group normalisation, halves by a stored width, and a stored flat size."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.c, self.flat = width, 3 * width
        self.stem, self.norm = nn.Conv2d(3, 2 * width, 3, padding=1), nn.GroupNorm(4, 2 * width)
        self.widen = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(3 * width, 4)

    def forward(self, x: Tensor) -> Tensor:
        halves = list(self.widen(self.norm(self.stem(x)).relu()).split((self.c, self.c), 1))
        halves.append(self.inner(halves[-1]).relu())
        out: Tensor = self.head(torch.cat(halves, 1).mean((2, 3)).view(-1, self.flat))
        return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> autoprune.Run:
    torch.manual_seed(0)
    options = {**TINY, "strategy": "uniform", "output": tmp_path_factory.mktemp("runs") / "stored"}
    return autoprune.search(Stored(), data=dataset(), **options)


def test_numbers_follow_in_the_winner(run: autoprune.Run) -> None:
    small: Any = run.model
    kept = {name: len(group.kept) for name, group in run.policy.groups.items()}
    assert kept["widen"] < 6 and kept["stem"] < 4
    assert (small.c, small.norm.num_groups) == (kept["widen"], kept["stem"])
    assert small.flat == 2 * kept["widen"] + kept["inner"]
    assert json.loads((run.path / "policy.json").read_text())["version"] == 2


def test_a_fresh_network_is_loaded_bit_equal(run: autoprune.Run) -> None:
    images = dataset()[0][0][None]
    loaded = autoprune.load_pruned(Stored(), run.path)
    assert torch.equal(loaded(images), run.model(images))


def test_another_number_is_refused(run: autoprune.Run) -> None:
    other = Stored()
    other.flat = 17
    with pytest.raises(ModelError, match="it changes 'flat' from 18, which is 17 here"):
        autoprune.load_pruned(other, run.path)


@pytest.mark.slow
def test_it_exports_to_onnx(run: autoprune.Run, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    entry = autoprune.export(Stored(), run.path, data=dataset(), output=tmp_path / "small.onnx")
    assert entry["max_error"] < 1e-4

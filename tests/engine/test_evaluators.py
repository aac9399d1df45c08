"""How candidates are repaired and measured."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from searches import TINY, Notes, classifier, dataset
from torch import Tensor, nn

import autoprune


@pytest.mark.parametrize(
    ("affordable", "workers", "judge"),
    # Two at once would need twice the memory that holds all samples of one.
    [
        (math.inf, 1, "quick-sequential"),
        (0.0, 1, "one-shot+batchnorm"),
        (math.inf, 2, "one-shot+batchnorm"),
    ],
)
def test_candidates_are_repaired_in_little_where_that_is_affordable(
    affordable: float, workers: int, judge: str, tmp_path: Path
) -> None:
    # The last repair is preferred.
    limits = {"repair": {"clearly_better": math.inf, "affordable": affordable}}
    options = {**TINY, "strategy": "random", "trials": 2, "workers": workers, "engine": limits}
    run = autoprune.search(classifier(), data=dataset(), output=tmp_path / "run", **options)
    assert run.result["judge"] == judge
    more = {**options, "trials": 3, "resume": True}
    again = autoprune.search(classifier(), data=dataset(), output=tmp_path / "run", **more)
    assert again.result["judge"] == judge and again.result["search"]["trials"] == 3


class Deaf(nn.Module):
    """A network that takes no derivatives."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out


class Spread(nn.Module):
    """A pooling whose derivative is not a number where all pixels are alike."""

    def forward(self, x: Tensor) -> Tensor:
        return x.var((2, 3), correction=0).sqrt()


@pytest.mark.parametrize("strategy", ["surrogate", "netadapt", "bayes"])
def test_without_derivatives_errors_stand_for_losses(strategy: str, tmp_path: Path) -> None:
    options = {**TINY, "strategy": strategy, "trials": 4, "output": tmp_path / "run"}
    notes = Notes()
    run = autoprune.search(Deaf(classifier()), data=dataset(), progress=notes, **options)
    assert run.result["search"]["trials"] == 4
    assert any("derivatives cannot be taken" in note for note in notes.notes)


def test_derivatives_that_are_not_numbers(tmp_path: Path) -> None:
    """Blank images have none at the square root of nothing: the search goes on by errors."""
    layers = list(classifier())
    model = nn.Sequential(*layers[:4], Spread(), *layers[5:])
    data = dataset()
    data.tensors[0][::3] = 0.0
    options = {**TINY, "strategy": "surrogate", "trials": 4, "output": tmp_path / "run"}
    assert autoprune.search(model, data=data, **options).result["search"]["trials"] == 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_in_other_precisions_have_derivatives(dtype: torch.dtype, tmp_path: Path) -> None:
    notes = Notes()
    options = {**TINY, "strategy": "surrogate", "trials": 3, "output": tmp_path / "run"}
    autoprune.search(classifier().to(dtype), data=dataset(), progress=notes, **options)
    assert not any("derivatives" in note for note in notes.notes)

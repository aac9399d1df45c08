"""Zeros in single weights from Python: through training, fine-tuning and reloading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import autoprune
from autoprune.data import Splits
from autoprune.errors import UsageError
from autoprune.models.demo import load_demo

QUICK: dict[str, Any] = {
    "calibration_samples": 64,
    "search_samples": 64,
    "selection_samples": 64,
    "report": False,
}


def zeros(network: torch.nn.Module) -> float:
    weights = [one for one in network.parameters() if one.dim() > 1]
    return sum(int((one == 0).sum()) for one in weights) / sum(one.numel() for one in weights)


def test_without_a_step_of_training(digits: Splits, tmp_path: Path) -> None:
    """No channel goes; what is loaded is what was returned."""
    run = autoprune.sparsify(load_demo(), data=digits, amount=0.5, output=tmp_path / "run", **QUICK)
    result = run.result
    assert result["costs"]["pruned"]["flops"] == result["costs"]["dense"]["flops"]
    figures = result["train"]["sparsity"]
    assert figures["zeros"] == pytest.approx(figures["weights"] / 2, abs=5)
    assert zeros(run.model) == pytest.approx(0.5, abs=1e-3)
    assert result["score"]["pruned"] > 0.9  # of 1.0: the others make up for the zeros
    inputs = torch.rand(3, 1, 8, 8)
    again = autoprune.load_pruned(load_demo(), run.path)
    assert torch.equal(run.model(inputs), again(inputs))


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({"method": "magnitude", "amount": 0.8}, 0.8),
        ({"method": "snip", "pattern": "4x1", "amount": 0.5}, 0.5),
        ({"method": "obs", "pattern": "2:4"}, 0.5),
    ],
)
def test_zeros_stay_while_others_train(
    digits: Splits, tmp_path: Path, options: dict[str, Any], share: float
) -> None:
    """In the run's own epochs, and in fine-tuning that comes later."""
    run = autoprune.sparsify(
        load_demo(), data=digits, epochs=1, augment="none", output=tmp_path / "run",
        **options, **QUICK,
    )  # fmt: skip
    figures = run.result["train"]["sparsity"]
    assert figures["zeros"] / figures["weights"] == pytest.approx(share, abs=1e-3)
    before = zeros(autoprune.load_pruned(load_demo(), run.path, weights="cut"))
    tuned = autoprune.finetune(
        load_demo(), run.path, data=digits, epochs=0.3, augment="none", overwrite=True
    )
    assert zeros(run.model) == zeros(tuned.model) == before > 0.4
    message = "optimizer whitened does not keep single weights at zero: choose sgd or adamw."
    with pytest.raises(UsageError, match=message):
        autoprune.finetune(
            load_demo(), run.path, data=digits, epochs=0.3, optimizer="whitened", overwrite=True
        )
    assert zeros(autoprune.load_pruned(load_demo(), run.path)) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "amount is missing"),
        ({"amount": 1.0}, "amount must be from 0 to below 1, but got 1.0"),
        ({"amount": 0.5, "pattern": "2:4"}, "says how much becomes zero: leave out amount"),
        ({"amount": 0.5, "pattern": "2x"}, "unknown pattern '2x'"),
        ({"amount": 0.5, "method": "snap"}, "did you mean 'snip'?"),
        ({"amount": 0.5, "clip": 1.0}, "clip is how weights train, but there are no epochs"),
        ({"amount": 0.5, "epochs": -1}, "epochs must be 0 or more"),
        ({"amount": 0.5, "pattern": "5x7"}, "can be divided into '5x7'"),
    ],
)
def test_what_is_refused(
    digits: Splits, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(autoprune.AutopruneError, match=message):
        autoprune.sparsify(load_demo(), data=digits, output=tmp_path / "run", **options, **QUICK)
    assert not (tmp_path / "run").exists()

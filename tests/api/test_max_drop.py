from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from searches import FEW, classifier, dataset
from torch import nn
from torch.utils.data import TensorDataset

import autoprune
from autoprune.core.progress import Progress
from autoprune.data import Splits
from autoprune.engine.max_drop import ROUNDS
from autoprune.errors import RunError, UsageError
from autoprune.models.demo import load_demo

OPTIONS: dict[str, Any] = {
    "calibration_samples": 200,
    "search_samples": 100,
    "selection_samples": 300,
    "strategy": "uniform",
    "trials": 6,
    "recover": "off",
}


def test_smallest_within_a_drop(digits: Splits, tmp_path: Path) -> None:
    run = autoprune.search(load_demo(), data=digits, max_drop=3, output=tmp_path / "run", **OPTIONS)
    found, costs = run.result["max_drop"], run.result["costs"]
    assert (found["points"], found["minimize"]) == (3, "flops")
    assert len(found["rounds"]) == ROUNDS and found["lost"] <= 3
    within = [one for one in found["rounds"] if one["lost"] <= 3]
    beyond = [one for one in found["rounds"] if one["lost"] > 3]
    assert within and beyond, "the test needs a drop that some budgets meet and some do not"
    # A bisection: whatever was tried below the winner's bound lost too much.
    assert found["share"] == min(one["share"] for one in within)
    assert max(one["share"] for one in beyond) < found["share"]
    assert costs["pruned"]["flops"] <= found["share"] * costs["dense"]["flops"]
    assert run.result["budget"] == f"flops={found['share']:.6g}"


@pytest.mark.parametrize("cost", ["params", "memory"])
def test_other_costs_can_be_made_small(cost: str, tmp_path: Path) -> None:
    # Any network is within 100 points: the bisection goes down all the way.
    run = autoprune.search(
        classifier(), data=dataset(), output=tmp_path / "run",
        **{**OPTIONS, "max_drop": 100, "minimize": cost},
    )  # fmt: skip
    shares = [one["share"] for one in run.result["max_drop"]["rounds"]]
    assert shares == sorted(shares, reverse=True)
    assert run.result["budget"] == f"{cost}={shares[-1]:.6g}"


def test_no_network_is_small_enough(tmp_path: Path) -> None:
    class Worse:
        """Every cut network scores worse than the dense one, which is asked first."""

        asked = 0

        def __call__(self, model: nn.Module) -> float:
            self.asked += 1
            return 9.0 if self.asked <= 2 else 1.0

    with pytest.raises(RunError, match=r"no smaller network within 2 points .* still loses 8\.00"):
        autoprune.search(
            classifier(), data=dataset(), evaluate=Worse(), output=tmp_path / "run",
            **{**OPTIONS, "max_drop": 2},
        )  # fmt: skip
    assert not (tmp_path / "run" / "result.json").exists()


def test_resumed_rounds_are_not_held_again(tmp_path: Path) -> None:
    rounds: list[str] = []

    class Stops(Progress):
        """Interrupts the search in its third round."""

        def note(self, text: str) -> None:
            rounds.append(text)
            if sum("the winner loses" in line for line in rounds) == 2:
                raise KeyboardInterrupt

    class Listens(Progress):
        def note(self, text: str) -> None:
            rounds.append(text)

    options = {**OPTIONS, "max_drop": 100, "strategy": "random"}
    whole = autoprune.search(classifier(), data=dataset(), output=tmp_path / "a", **options)
    part = {**options, "output": tmp_path / "b"}
    with pytest.raises(KeyboardInterrupt):
        autoprune.search(classifier(), data=dataset(), progress=Stops(), **part)
    rounds.clear()
    resumed = autoprune.search(
        classifier(), data=dataset(), progress=Listens(), resume=True, **part
    )
    # Two searches were over; only what was left is searched, and the end is the same.
    assert sum("up to 1 trial " in line for line in rounds) == ROUNDS - 2
    assert resumed.result["max_drop"]["rounds"] == whole.result["max_drop"]["rounds"]
    assert resumed.result["widths"] == whole.result["widths"]
    assert resumed.result["search"]["trials"] == whole.result["search"]["trials"]


def test_labels_are_needed(tmp_path: Path) -> None:
    images = TensorDataset(dataset().tensors[0])
    with pytest.raises(UsageError, match="max_drop needs labels"):
        autoprune.search(classifier(), data=images, max_drop=1, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_drop": -1}, "max_drop must be points, 0 or more, but got -1"),
        ({"max_drop": 1, "budget": "flops=0.5"}, "give one of them"),
        ({"minimize": "flops", "budget": "flops=0.5"}, "at a given max_drop"),
        ({"max_drop": 1, "minimize": "flop"}, "unknown cost 'flop' to minimize; did you mean"),
        ({"max_drop": "much"}, "max_drop must be a number of points"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    few = {key: value for key, value in FEW.items() if key != "budget"}
    with pytest.raises(UsageError, match=message):
        autoprune.search(
            classifier(), data=dataset(), output=tmp_path / "run", **{**few, **options}
        )
    assert not (tmp_path / "run").exists()

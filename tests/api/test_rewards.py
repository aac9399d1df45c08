"""Rewards, built in and the user's own, through whole searches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from searches import TINY, classifier, dataset
from torch.utils.data import TensorDataset

import autoprune
from autoprune.core.progress import Progress
from autoprune.engine.limits import FinalistLimits
from autoprune.errors import AutopruneError, ModelError, UsageError
from autoprune.evaluation.measurement import Measurement
from autoprune.study.run_directory import RunDirectory


def lean(found: Measurement) -> float:
    assert found.scores.top1 is not None
    return found.scores.top1 - found.costs["params"] / found.dense_costs["params"]


def stored(run: Path) -> dict[str, Any]:
    return RunDirectory(run).load_config()


@pytest.mark.parametrize(
    ("given", "name"),
    [({"reward": "accuracy_flops"}, "accuracy_flops"), ({"reward": lean, "budget": None}, None)],
    ids=["built-in", "own"],
)
def test_no_budget(given: dict[str, Any], name: str | None, tmp_path: Path) -> None:
    options = {"strategy": "bayes", "trials": 6, "output": tmp_path / "run", **given}
    run = autoprune.search(classifier(), data=dataset(), **options)
    name = name or f"{__name__}:lean"
    assert (run.result["budget"], run.result["reward"]) == (None, name)
    assert (stored(run.path)["budget"], stored(run.path)["reward"]) == ("none", name)
    kept = sum(kept for kept, _ in run.result["widths"].values())
    assert kept < sum(size for _, size in run.result["widths"].values())
    autoprune.search(classifier(), data=dataset(), resume=True, **{**options, "trials": 7})


def test_a_reward_of_ones_own_needs_a_budget_or_none_in_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="budget is missing"):
        autoprune.search(classifier(), data=dataset(), reward=lean, output=tmp_path / "run")


def test_resuming_with_another_reward_is_refused(tmp_path: Path) -> None:
    options = {**TINY, "output": tmp_path / "run"}
    autoprune.search(classifier(), data=dataset(), reward=lean, **options)
    for other in (None, "accuracy", lambda found: 0.0):
        with pytest.raises(
            UsageError, match=r"cannot resume .* with reward=.*begun with '.*:lean'"
        ):
            autoprune.search(classifier(), data=dataset(), reward=other, resume=True, **options)


@pytest.mark.parametrize(
    ("more", "lacking"),
    [({}, "the data has no labels"), ({"evaluate": lambda model: 1.0}, "evaluate gives none")],
    ids=["no labels", "another task"],
)
def test_rewards_on_accuracy_need_labels(
    more: dict[str, Any], lacking: str, tmp_path: Path
) -> None:
    images = TensorDataset(dataset().tensors[0])
    for reward in ("accuracy", "accuracy_flops"):
        options = {**TINY, **more, "reward": reward, "output": tmp_path / "run"}
        with pytest.raises(UsageError, match=f"'{reward}' needs top-1 accuracy, and {lacking}"):
            autoprune.search(classifier(), data=images, **options)
    assert not (tmp_path / "run").exists()


class Faulty:
    """−parameters, but raises from one call to another, counted from 1."""

    def __init__(self, first: int, last: int) -> None:
        self.calls, self.first, self.last = 0, first, last

    def __call__(self, found: Measurement) -> float:
        self.calls += 1
        if self.first <= self.calls <= self.last:
            raise ValueError("my mistake")
        return -found.costs["params"]


def test_a_mended_reward_goes_on(tmp_path: Path) -> None:
    fixed = {"strategy": "random", "budget": None, "recover": "off"}
    options = {**fixed, "trials": 10, "output": tmp_path / "run"}
    with pytest.raises(AutopruneError, match=r"5 trials in a row failed.*Faulty.*my mistake.*kept"):
        autoprune.search(classifier(), data=dataset(), reward=Faulty(4, 99), **options)
    assert not (tmp_path / "run" / "result.json").exists()
    mended = Faulty(0, 0)
    run = autoprune.search(classifier(), data=dataset(), reward=mended, resume=True, **options)
    search = run.result["search"]
    assert (search["trials"], search["failed"]) == (10, 0)
    # The first finalist is built in two ways, the others in one.
    assert mended.calls == (10 - 3) + FinalistLimits().unscreened + 1


def test_single_failures_are_counted(tmp_path: Path) -> None:
    options = {**TINY, "strategy": "random", "trials": 4, "output": tmp_path / "run"}
    run = autoprune.search(classifier(), data=dataset(), reward=Faulty(2, 3), **options)
    assert (run.result["search"]["trials"], run.result["search"]["failed"]) == (4, 2)


def test_finalists_whose_reward_fails_drop_out(tmp_path: Path) -> None:
    notes: list[str] = []

    class Notes(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    options = {**TINY, "output": tmp_path / "run", "progress": Notes()}
    with pytest.raises(ModelError, match=r"every finalist failed .*Faulty.* raised .*my mistake"):
        autoprune.search(classifier(), data=dataset(), reward=Faulty(2, 3), **options)
    assert not (tmp_path / "run" / "result.json").exists()
    run = autoprune.search(
        classifier(), data=dataset(), reward=Faulty(1, 1), resume=True, **options
    )
    assert run.result["reconstruction"] == "sequential"  # the judge's own repair came first
    dropped = [note for note in notes if note.startswith("a finalist drops out: the reward ")]
    assert len(dropped) == 3

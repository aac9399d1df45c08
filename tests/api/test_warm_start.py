"""Searches that begin with another search's trials, or share a study with other processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from searches import FEW, classifier, dataset
from torch import nn

import autoprune
from autoprune.core.progress import Progress, SearchState
from autoprune.engine.fingerprint import Fingerprint
from autoprune.errors import RunError, UsageError
from autoprune.study.ledger import STUDY_NAME, read_trials
from autoprune.study.run_directory import RunDirectory


class Counted(Progress):
    """How many evaluations were made."""

    def __init__(self) -> None:
        self.states: list[SearchState] = []

    def searched(self, state: SearchState) -> None:
        self.states.append(state)


def data() -> Mapping[str, Any]:
    whole = dataset(180)
    parts = [torch.utils.data.Subset(whole, range(n, n + 60)) for n in (0, 60, 120)]
    return dict(zip(("train", "val", "test"), parts, strict=True))


def search(output: Path, model: nn.Module | None = None, **given: Any) -> tuple[Any, Counted]:
    progress = Counted()
    options = {**FEW, "data": data(), "progress": progress, **given}
    run = autoprune.search(model or classifier(), output=output, **options)
    return run, progress


def trials(run: Path) -> list[Any]:
    with RunDirectory(run).stored_study() as study:
        return list(read_trials(study))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    search(folder / "a", strategy="random", trials=4)
    return folder / "a"


@pytest.mark.parametrize("strategy", ["surrogate", "evolution", "bayes"])
def test_known_trials_are_told_and_not_evaluated_again(
    strategy: str, first: Path, tmp_path: Path
) -> None:
    run, progress = search(tmp_path / "b", strategy=strategy, trials=3, warm_from=first)
    before, after = trials(first), trials(tmp_path / "b")
    assert after[:4] == before
    assert len(after) == 4 + run.result["search"]["trials"] == 4 + len(progress.states)
    widths = [trial.candidate.widths for trial in after]
    assert len(set(widths)) == len(widths)
    best = max(trial.value for trial in before)
    assert progress.states[0].best is not None and progress.states[0].best >= best


def test_an_interrupted_warm_search_goes_on_alike(first: Path, tmp_path: Path) -> None:
    class Stops(Counted):
        def searched(self, state: SearchState) -> None:
            raise KeyboardInterrupt

    given: dict[str, Any] = {"strategy": "surrogate", "trials": 3, "warm_from": first}
    whole, _ = search(tmp_path / "whole", **given)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "stopped", **{**given, "progress": Stops()})
    again, _ = search(tmp_path / "stopped", resume=True, **given)
    found = [[(t.candidate, t.value) for t in trials(run.path)] for run in (whole, again)]
    assert found[0] == found[1]


def test_another_budget_keeps_the_trials(first: Path, tmp_path: Path) -> None:
    run, _ = search(tmp_path / "b", warm_from=first, budget="flops=0.7", strategy="uniform")
    assert run.result["search"]["trials"] == 1 and len(trials(tmp_path / "b")) == 5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"seed": 1}, "seed=0 there, and seed=1 here"),
        ({"reward": "accuracy"}, "reward='kl' there"),
        ({"importance": "l1"}, "importance='obs' there"),
        ({"model": "other"}, "another network"),
        ({"data": "other"}, "another data"),
    ],
)
def test_another_problem_is_refused_in_one_line(
    given: dict[str, Any], words: str, first: Path, tmp_path: Path
) -> None:
    if "model" in given:
        given = {"model": classifier()}
        with torch.no_grad():
            given["model"][0].bias += 0.01
    if "data" in given:
        images, labels = dataset(60).tensors
        changed = torch.utils.data.TensorDataset(images + 0.1, labels)
        given = {"data": {**data(), "val": changed}}
    with pytest.raises(UsageError, match=f"cannot begin with the trials of .*{words}"):
        search(tmp_path / "b", warm_from=first, **given)
    assert not (tmp_path / "b").exists() or not any((tmp_path / "b").iterdir())


def test_no_run_to_begin_with(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        search(tmp_path / "b", warm_from=tmp_path / "nothing")


def test_two_searches_share_a_study(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    _, first_progress = search(tmp_path / "one", storage=url, strategy="random", trials=2)
    two, progress = search(tmp_path / "two", storage=url, strategy="random", trials=3)
    assert len(first_progress.states) == 2 and len(progress.states) == 1
    assert trials(tmp_path / "two")[:2] == trials(tmp_path / "one")
    assert two.result["search"]["trials"] == 3
    (tmp_path / "two").rename(tmp_path / "moved")
    again, none = search(tmp_path / "moved", storage=url, strategy="random", trials=4, resume=True)
    assert len(none.states) == 1 and again.result["search"]["trials"] == 4
    study = optuna.load_study(study_name=STUDY_NAME, storage=RunDirectory(again.path).storage)
    own = [RunDirectory(tmp_path / name).identity for name in ("one", "moved")]
    made = [trial.user_attrs["process"] for trial in study.trials]
    assert made == [own[0], own[0], own[1], own[1]] and own[0] != own[1]
    with pytest.raises(UsageError, match="without the storage that it was begun with"):
        search(tmp_path / "one", strategy="random", trials=5, resume=True)
    with pytest.raises(UsageError, match="exclude each other"):
        search(tmp_path / "x", storage=url, budget=None, max_drop=1.0)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("shared.db", "is not the URL of a storage"),
        ("postgresql://me:secret@host/name", "says a password"),
        ("sqlite:///missing/folder/study.db", "cannot open study"),
    ],
)
def test_storages_that_cannot_be_meant(url: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        search(tmp_path / "x", storage=url)
    assert "secret" not in str(refused.value)
    assert not (tmp_path / "x").exists() or not any((tmp_path / "x").iterdir())


def test_fingerprints_say_what_differs() -> None:
    one = Fingerprint("a", "b", "c")
    assert one.differs_in(Fingerprint("a", "b", "c")) is None
    assert one.differs_in(Fingerprint("x", "b", "c")) == "network"
    assert one.differs_in(Fingerprint("a", "x", "c")) == "data"
    assert one.differs_in(Fingerprint("a", "b", "x")) == "evaluate, distance, reward or importance"

"""Damaged states of unfinished work: a recovery begins again, a training says what is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from made_runs import command, make_finished, make_killed, make_tuning
from run_readers import resume

from autoprune.errors import AutopruneError
from autoprune.study.run_directory import RunDirectory
from autoprune.training.checkpoints import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that was killed in its recovery; not to be changed."""
    return make_killed(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def tuning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search with an unfinished fine-tuning; not to be changed."""
    run = make_finished(tmp_path_factory.mktemp("finished"))
    make_tuning(run)
    return run


@pytest.fixture
def run(tuning: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(tuning, tmp_path / "run")
    return tmp_path / "run"


def altered(path: Path, **values: Any) -> None:
    """Change what a state of unfinished work says."""
    state = load_checkpoint(path)
    del state["format"]
    save_checkpoint(path, {**state, **values})


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 10**15, "checked": 10**15, "schedule": [10**15, 10**15]},
        {"steps": "many"},
        {"student": {}},
        {"optimizer": {"adam": {}, "layers": []}},
    ],
    ids=["endless", "a text", "no network", "no optimizer"],
)
def test_a_recovery_whose_state_is_damaged_begins_again(
    values: dict[str, Any], killed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    altered(run / "checkpoints/recovery.pt", **values)
    resume(run)
    assert any("recovery.pt' is damaged" in one.getMessage() for one in caplog.records)
    assert RunDirectory(run).load_result()["recovery"]["steps"] == 24


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"step": "many"}, "of another run, or damaged: step: 'many' is not a whole number"),
        ({"losses": None}, "of another run, or damaged"),
        ({"best_validation": {"value": 1.0}}, "of another run, or damaged"),
        ({"network": {}}, "of another run, or damaged"),
    ],
)
def test_a_training_says_that_its_checkpoint_is_damaged(
    values: dict[str, Any], words: str, run: Path
) -> None:
    altered(run / "checkpoints/finetune.pt", **values)
    with pytest.raises(AutopruneError, match=words):
        command("finetune", str(run), "--resume", "--quiet", "--epochs", "1")


def test_a_training_cannot_go_on_with_strange_states_of_its_optimizer(run: Path) -> None:
    path = run / "checkpoints/finetune.pt"
    optimizer = load_checkpoint(path)["optimizer"]
    for own in optimizer["state"].values():
        for name in own:
            own[name] = torch.zeros(3, 7, 5)
    altered(path, optimizer=optimizer)
    with pytest.raises(AutopruneError, match="cannot go on from checkpoint"):
        command("finetune", str(run), "--resume", "--quiet", "--epochs", "1")

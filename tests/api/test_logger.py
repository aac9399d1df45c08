"""Searches that tell trackers of every trial."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from itertools import accumulate, count
from pathlib import Path
from typing import Any

import pytest
from searches import FEW, TINY, classifier, dataset

import autoprune
from autoprune.errors import UsageError
from autoprune.evaluation.measurement import Measurement
from autoprune.options.train import TrainConfig
from autoprune.study.ledger import read_trials
from autoprune.study.run_directory import RunDirectory

MINE = """
import json

class Mine:
    def __init__(self, folder, config):
        self.path = folder / f"{config['training']}.points"
        self.path.with_suffix(".begun").touch()

    def log(self, step, figures):
        with self.path.open("a") as file:
            file.write(json.dumps([step, figures]) + "\\n")

    def close(self):
        self.path.with_suffix(".closed").touch()

class Fails(Mine):
    def log(self, step, figures):
        super().log(step, figures)
        raise OSError("the server is away")

class Endless:
    def __init__(self, folder, config):
        pass

    def log(self, step, figures):
        pass

class Refuses:
    def __init__(self, folder, config):
        raise OSError("no key")
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(MINE)
    return f"{tmp_path}/mine.py"


def search(output: Path, **given: Any) -> autoprune.Run:
    options = {**TINY, "strategy": "random", "trials": 5, **given}
    return autoprune.search(classifier(), data=dataset(), output=output, **options)


def points(run: Path, training: str = "search") -> list[tuple[int, dict[str, float]]]:
    lines = (run / f"{training}.points").read_text().splitlines()
    return [tuple(json.loads(line)) for line in lines]


def raising(error: BaseException, call: int) -> Callable[[Measurement], float]:
    """Return a reward that raises at one of its calls, counted from 1."""
    calls = count(1)

    def reward(found: Measurement) -> float:
        if next(calls) == call:
            raise error
        assert found.scores.kl is not None
        return -found.scores.kl

    return reward


def test_every_trial_is_a_point(mine: str, tmp_path: Path) -> None:
    run = search(tmp_path / "run", logger=f"{mine}:Mine")
    steps, figures = zip(*points(run.path), strict=True)
    assert steps == (1, 2, 3, 4, 5) == tuple(one["trials"] for one in figures)
    rewards = [one["reward"] for one in figures]
    assert rewards == [t.value for t in read_trials(RunDirectory(run.path).storage)]
    assert [one["best_reward"] for one in figures] == list(accumulate(rewards, max))
    assert all(one["failed"] == 0 and 0 < one["best_flops"] <= 0.5 for one in figures)
    assert (run.path / "search.closed").exists()


def test_a_resumed_search_goes_on_with_its_points(mine: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"reward": raising(KeyboardInterrupt(), 3), "logger": (f"{mine}:Mine",)}
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "run", **given)
    assert [step for step, _ in points(tmp_path / "run")] == [1, 2]
    search(tmp_path / "run", resume=True, **given)
    assert [step for step, _ in points(tmp_path / "run")] == [1, 2, 3, 4, 5]


def test_a_failed_trial_is_a_point_without_a_reward(mine: str, tmp_path: Path) -> None:
    reward = raising(ValueError("a sensor is missing"), 2)
    search(tmp_path / "run", logger=f"{mine}:Mine", reward=reward, trials=3)
    figures = [one for _, one in points(tmp_path / "run")]
    assert ["reward" in one for one in figures] == [True, False, True]
    assert [one["failed"] for one in figures] == [0, 1, 1]


def test_a_search_is_not_lost_for_its_trackers(
    mine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "autoprune"):
        run = search(tmp_path / "run", logger=[f"{mine}:Fails", f"{mine}:Mine"])
    assert run.result["search"]["trials"] == 5 and len(points(run.path)) == 1 + 5
    assert caplog.text.count("is told no more: ") == 1 and "the server is away" in caplog.text


def test_a_tracker_without_an_end_costs_a_warning(
    mine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "autoprune"):
        search(tmp_path / "run", logger=f"{mine}:Endless", trials=2)
    assert "has no attribute 'close'" in caplog.text


def test_trackers_that_cannot_begin_leave_nothing(
    mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    refused = {
        f"{mine}:Refuses": "cannot begin: .*no key",
        "wandb": "pip install wandb",
        "wandbb": "did you mean 'wandb'",
        f"{mine}:Nobody": "has no 'Nobody'",
    }
    for logger, words in refused.items():
        with pytest.raises(UsageError, match=words):
            search(tmp_path / "run", logger=logger)
        assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_the_trainings_of_rounds_have_curves_of_their_own(mine: str, tmp_path: Path) -> None:
    run = search(
        tmp_path / "run", logger=f"{mine}:Mine", trials=2, rounds=2, finetune_epochs=1.0,
        decide="channels", **{k: FEW[k] for k in ("calibration_samples", "search_samples")},
    )  # fmt: skip
    for folder in (run.path, run.path / "rounds" / "1"):
        assert [step for step, _ in points(folder)] == [1, 2]
        assert points(folder, "finetune")


def test_the_cut_after_a_training_is_no_search_to_be_watched() -> None:
    config = TrainConfig(method="slimming", budget="flops=0.5", logger=("tensorboard",))
    assert config.shaping().logger == ("tensorboard",) and config.search().logger == ()


def test_a_training_without_epochs_before_the_cut_is_no_curve(mine: str, tmp_path: Path) -> None:
    run = autoprune.train(
        classifier(), data=dataset(), method="c_sgd", budget="flops=0.7", epochs=0.5,
        finetune_epochs=0.5, output=tmp_path / "run", logger=f"{mine}:Mine", report=False,
        **{k: FEW[k] for k in ("calibration_samples", "search_samples")},
    )  # fmt: skip
    assert run.result["train"]["steps"] == 0 and run.result["train"]["remaining"] > 0
    begun, closed = ({one.stem for one in run.path.glob(f"*.{end}")} for end in ("begun", "closed"))
    assert begun == closed == {"finetune"}


def test_tensorboard_has_a_point_for_every_trial(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = search(tmp_path / "run", logger="tensorboard", trials=2)
    search(tmp_path / "run", logger="tensorboard", trials=4, resume=True)
    events = EventAccumulator(str(run.path / "tensorboard" / "search")).Reload()
    assert [one.step for one in events.Scalars("best_reward")] == [1, 2, 3, 4]

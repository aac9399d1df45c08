"""Interrupted and finished searches that go on."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import optuna
import pytest
from searches import FEW, TINY, Notes, classifier, dataset
from torch import nn

import autoprune
from autoprune.core.progress import Progress, SearchState
from autoprune.data import Splits
from autoprune.engine import pipeline, summary
from autoprune.errors import Interrupted, RunError, UsageError
from autoprune.evaluation.measurement import Measurement
from autoprune.models.demo import load_demo
from autoprune.recovery import distillation
from autoprune.study.ledger import STUDY_NAME
from autoprune.study.run_directory import RunDirectory


def test_interrupted_search_is_resumed(tmp_path: Path) -> None:
    calls = 0

    def reward(found: Measurement) -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        assert found.scores.kl is not None
        return -found.scores.kl

    def search(folder: str, **how: Any) -> autoprune.Run:
        options = {**TINY, "strategy": "bayes", "trials": 5, "output": tmp_path / folder}
        return autoprune.search(classifier(), data=dataset(), **options, **how)

    with pytest.raises(KeyboardInterrupt):
        search("run", reward=reward)
    with pytest.raises(RunError, match="finish it with: autoprune search --resume"):
        autoprune.load_pruned(classifier(), tmp_path / "run")
    resumed, whole = search("run", reward=reward, resume=True), search("whole")
    assert resumed.result["widths"] == whole.result["widths"]
    assert resumed.result["search"]["trials"] == 5


def test_other_workers_go_on_with_as_many_candidates_at_once(tmp_path: Path) -> None:
    def search(folder: str, **how: Any) -> autoprune.Run:
        options = {**TINY, "strategy": "random", "output": tmp_path / folder, **how}
        return autoprune.search(classifier(), data=dataset(), **options)

    search("run", trials=4, workers=2)
    resumed = search("run", trials=8, workers=3, resume=True)
    assert resumed.result["widths"] == search("whole", trials=8, workers=2).result["widths"]
    stored = RunDirectory(tmp_path / "run").load_config()
    assert (stored["workers"], stored["at_once"]) == (3, 2)
    with pytest.raises(UsageError, match="with at_once=3: it was begun with 2"):
        search("run", trials=9, at_once=3, resume=True)


class _Killer(Progress):
    """Ends its process as by SIGKILL, after so many trials or at a share of a stage."""

    def __init__(self, trials: int | None = None, stage: str = "", percent: int = 0) -> None:
        self._trials, self._stage, self._percent = trials, stage, percent

    def searched(self, state: SearchState) -> None:
        if state.done == self._trials:
            os.kill(os.getpid(), signal.SIGKILL)

    def step(self, stage: str, done: int, total: int) -> None:
        if stage == self._stage and 100 * done >= self._percent * total:
            os.kill(os.getpid(), signal.SIGKILL)


def _killed(killer: _Killer, options: dict[str, Any]) -> None:
    """Search in a process that is killed."""

    def run() -> None:
        autoprune.search(classifier(), data=dataset(), progress=killer, **options)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_killed_search_counts_as_many_evaluations_as_a_whole_one(tmp_path: Path) -> None:
    """It scores the best so far again to race against it, which is no further evaluation."""
    options = {**TINY, "strategy": "random", "trials": 5}
    whole = autoprune.search(classifier(), data=dataset(), output=tmp_path / "whole", **options)
    options["output"] = tmp_path / "killed"
    _killed(_Killer(trials=3), options)
    resumed = autoprune.search(classifier(), data=dataset(), resume=True, **options)
    for figure in ("trials", "evaluations", "best_value"):
        assert resumed.result["search"][figure] == whole.result["search"][figure], figure
    assert resumed.result["widths"] == whole.result["widths"]


def test_a_search_killed_in_recovery_ends_with_the_same_weights(tmp_path: Path) -> None:
    options = {**TINY, "recover": "16steps"}
    whole = autoprune.search(classifier(), data=dataset(), output=tmp_path / "whole", **options)
    options["output"] = tmp_path / "killed"
    _killed(_Killer(stage="recovery", percent=60), options)
    assert (tmp_path / "killed" / "checkpoints" / "recovery.pt").exists()
    resumed = autoprune.search(classifier(), data=dataset(), resume=True, **options)
    assert resumed.result["recovery"] == {"steps": 16, "repeated_by": "16steps"}
    assert resumed.result["score"] == whole.result["score"]
    for file in ("policy.json", "pruned.safetensors"):
        mine, theirs = (run.path / file for run in (resumed, whole))
        assert mine.read_bytes() == theirs.read_bytes(), file
    left = {path.name for path in resumed.path.iterdir()}
    assert not left & {"checkpoints", "standing.json"}


def test_two_searches_begin_in_one_directory(tmp_path: Path) -> None:
    options = {**TINY, "output": tmp_path / "run"}
    with (
        RunDirectory(tmp_path / "run").held(),
        pytest.raises(RunError, match=f"in use by process {os.getpid()} of "),
    ):
        autoprune.search(classifier(), data=dataset(), **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("resume", [False, True])
def test_whoever_comes_second_ends_at_once(resume: bool, tmp_path: Path) -> None:
    options = {**TINY, "strategy": "random", "trials": 2, "output": tmp_path / "run"}
    refused: list[str] = []

    def reward(found: Measurement) -> float:
        again = {**options, "reward": reward, "trials": 9}
        with pytest.raises(RunError) as told:
            autoprune.search(classifier(), data=dataset(), resume=resume, **again)
        refused.append(str(told.value))
        assert found.scores.kl is not None
        return -found.scores.kl

    run = autoprune.search(classifier(), data=dataset(), reward=reward, **options)
    assert len(refused) >= 2 and run.result["search"]["trials"] == 2
    assert all(("in use by process" if resume else "another run") in line for line in refused)
    assert not [path for path in run.path.iterdir() if path.name.startswith(".")]


def test_a_directory_that_is_removed_in_mid_search(tmp_path: Path) -> None:
    options = {**TINY, "strategy": "random", "trials": 5, "output": tmp_path / "run"}

    def reward(found: Measurement) -> float:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return 0.0

    with pytest.raises(RunError, match="run' was removed while it was being written"):
        autoprune.search(classifier(), data=dataset(), reward=reward, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_run_killed_in_recovery_is_refused_until_it_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: Any) -> None:
        shutil.copytree(tmp_path / "run", tmp_path / "a run")  # what SIGKILL would leave
        raise KeyboardInterrupt

    options = {**TINY, "output": tmp_path / "run", "recover": 600}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline, "recover_winner", killed)
        autoprune.search(classifier(), data=dataset(), **options)
    options["output"] = tmp_path / "a run"
    # All that evaluation needs is there but for the result, which it would miss at its end.
    assert {"policy.json", "pruned.safetensors"} <= {p.name for p in options["output"].iterdir()}
    with pytest.raises(RunError, match=r"is not finished: .* --resume --output '.*/a run' "):
        autoprune.load_pruned(classifier(), options["output"])
    with pytest.raises(RunError, match="is not finished"):
        autoprune.search(
            classifier(), data=dataset(), budget="flops=0.7", from_run=options["output"].as_posix()
        )
    monkeypatch.setattr(distillation, "EPOCHS", 1)
    long = {"surgery": 1.0, "batchnorm": None, "scoring": 999.0}
    monkeypatch.setattr(summary, "stage_seconds", lambda ledger: long)
    run = autoprune.search(classifier(), data=dataset(), resume=True, **options)
    autoprune.load_pruned(classifier(), run.path)
    # The session that was killed could not write down what it took in all.
    assert run.result["search"]["seconds"] >= 1000
    # A trial, two to choose the judge, in either session two repairs and the winner for the record,
    # and once after recovery.
    assert run.result["search"]["evaluations"] == 1 + 2 + 2 * (2 + 1) + 1


def test_a_resumed_search_keeps_its_options(demo: autoprune.Run, digits: Splits) -> None:
    for changed in ({"seed": 2}, {"budget": "flops=0.6"}, {"exclude": "stem"}, {"sampler": "gp"}):
        options = {**FEW, "seed": 1, **changed}
        with pytest.raises(UsageError, match=f"cannot resume .* with {next(iter(changed))}="):
            autoprune.search(load_demo(), data=digits, output=demo.path, resume=True, **options)


def test_a_finished_search_goes_on_only_with_higher_limits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def search(trials: int, time: float | None = None, resume: bool = True) -> autoprune.Run:
        options = {**TINY, "strategy": "random", "trials": trials, "output": tmp_path / "run"}
        return autoprune.search(classifier(), data=dataset(), time=time, resume=resume, **options)

    first = search(3, 600.0, resume=False).result
    for limits in ((3, 600.0), (2, 600.0), (3, 300.0)):
        caplog.clear()
        again = search(*limits)
        assert "is finished (3 trials): raise trials, time or recover to go on" in caplog.text
        assert again.result == first
    second = search(5, 600.0).result
    assert (second["search"]["trials"], second["search"]["limits"]["trials"]) == (5, 5)
    assert second["search"]["seconds"] > first["search"]["seconds"]
    # Two measurements chose the judge, once; the first finalist is built in two ways each time, and
    # the winner is judged once more.
    assert first["search"]["evaluations"] == 3 + 2 + (4 + 1)
    assert second["search"]["evaluations"] == 5 + 2 + (4 + 1) + (6 + 1)
    assert second["search"]["image_forwards"] > first["search"]["image_forwards"]
    for stage in ("structure", "statistics", "surgery", "scoring", "finalists"):
        assert second["seconds"][stage] > first["seconds"][stage], stage
    caplog.clear()
    assert search(5, 600.0).result == second and "is finished" in caplog.text
    assert search(5, 1200.0).result["search"]["trials"] == 5


def test_more_trials_go_on_with_the_plan_that_was_begun(tmp_path: Path) -> None:
    """NetAdapt plans its steps by the trials; what is added goes on where those end."""
    told = Notes()
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 3, 1), *classifier())

    def asked(folder: str, *limits: int) -> list[Any]:
        options = {**TINY, "strategy": "netadapt", "output": tmp_path / folder, "progress": told}
        for number, trials in enumerate(limits):
            given = {**options, "trials": trials, "resume": number > 0}
            run = autoprune.search(model, data=dataset(), **given)
        assert run.result["search"]["limits"]["trials"] == trials
        study = optuna.load_study(
            study_name=STUDY_NAME, storage=RunDirectory(tmp_path / folder).storage
        )
        return [trial.user_attrs["widths"] for trial in study.trials]

    at_once, in_two = asked("once", 6, 16), asked("twice", 6, 10, 16)
    assert len(at_once) == 16 and at_once == in_two
    assert any("up to 16 trials" in n and "begun for 6" in n for n in told.notes)


def test_what_auto_stood_for_stays(tmp_path: Path) -> None:
    options = {**TINY, "strategy": "auto", "output": tmp_path / "run"}
    storage = RunDirectory(tmp_path / "run").storage

    def searched_by(trials: int) -> str:
        given = {**options, "trials": trials, "resume": trials > 1}
        return str(autoprune.search(classifier(), data=dataset(), **given).result["searched_by"])

    def record(chosen: Any) -> None:
        optuna.load_study(study_name=STUDY_NAME, storage=storage).set_user_attr("strategy", chosen)

    assert searched_by(1) == "surrogate"
    record(["random", {}])
    assert searched_by(2) == "random"
    # A run of a version that knew one strategy alone, and did not write it down.
    record(None)
    assert searched_by(3) == "bayes"


def test_the_search_evaluator_of_the_run_stays(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *classifier()[2:])
    options = {**TINY, "strategy": "random", "output": tmp_path / "run"}
    options["engine"] = {"repair": {"clearly_better": math.inf, "affordable": 0}}  # the last one
    first = autoprune.search(model, data=dataset(), **options)
    assert first.result["judge"] == "one-shot+batchnorm"
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace("one-shot+batchnorm", "one-shot"))
    again = autoprune.search(model, data=dataset(), resume=True, **{**options, "trials": 2})
    assert again.result["judge"] == "one-shot"


def test_a_run_goes_on_where_it_was_begun(tmp_path: Path) -> None:
    options = {**TINY, "output": tmp_path / "run"}
    run = autoprune.search(classifier(), data=dataset(), **options)
    config = run.path / "config.toml"
    config.write_text(config.read_text().replace('device = "cpu"', 'device = "cuda:0"'))
    with pytest.raises(UsageError, match="with device='cpu': it was begun with 'cuda:0'"):
        autoprune.search(classifier(), data=dataset(), resume=True, **options)


def test_an_option_left_out_on_resuming_is_a_change(tmp_path: Path) -> None:
    options = {**TINY, "strategy": "bayes", "output": tmp_path / "run"}
    autoprune.search(classifier(), data=dataset(), sampler="cmaes", **options)
    with pytest.raises(UsageError, match=r"cannot resume .* sampler"):
        autoprune.search(classifier(), data=dataset(), resume=True, **options)


def test_options_that_an_older_version_did_not_know_take_their_defaults(tmp_path: Path) -> None:
    options = {**TINY, "strategy": "random", "output": tmp_path / "run"}
    config = autoprune.search(classifier(), data=dataset(), **options).path / "config.toml"
    newer = ("verify_latency", "recover", "device", "judge", "round_to", "workers", "at_once")
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if not line.startswith(newer)))

    def resume(**changed: Any) -> autoprune.Run:
        given = {**options, "trials": 2, **changed}
        return autoprune.search(classifier(), data=dataset(), resume=True, **given)

    with pytest.raises(UsageError, match="with round_to=2: it was begun with 1"):
        resume(round_to=2)
    assert resume().result["search"]["trials"] == 2
    stored = RunDirectory(tmp_path / "run").load_config()
    assert stored["verify_latency"] is True and stored["judge"] == "one-shot"


def test_a_run_with_options_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    options = {**TINY, "output": tmp_path / "run"}
    config = autoprune.search(classifier(), data=dataset(), **options).path / "config.toml"
    config.write_text(
        "machines = 3\n" + config.read_text().replace(f'"{autoprune.__version__}"', '"9.9"')
    )
    with pytest.raises(
        UsageError, match=r"cannot resume .* '9.9' with machines=3, an option that version .* not"
    ):
        autoprune.search(classifier(), data=dataset(), resume=True, **{**options, "trials": 2})


def test_taken_directories_are_refused(demo: autoprune.Run, digits: Splits, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for taken in (demo.path, tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(RunError, match="choose another name"):
            autoprune.search(load_demo(), data=digits, output=taken, **FEW)


def test_a_record_that_cannot_be_opened_leaves_the_run_as_it_is(tmp_path: Path) -> None:
    options = {**TINY, "strategy": "random", "output": tmp_path / "run"}
    autoprune.search(classifier(), data=dataset(), **options)
    config = (tmp_path / "run" / "config.toml").read_text()
    (tmp_path / "run" / "study.db").write_text("hello")
    with pytest.raises(RunError, match="cannot open study"):
        autoprune.search(classifier(), data=dataset(), resume=True, **{**options, "trials": 9})
    assert (tmp_path / "run" / "config.toml").read_text() == config


@pytest.mark.parametrize("trials", [0, 2])
def test_ctrl_c_ends_in_one_line_that_says_how_to_go_on(
    trials: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(Progress):
        def searched(self, state: SearchState) -> None:
            if state.done == trials:
                raise KeyboardInterrupt

        def step(self, stage: str, done: int, total: int) -> None:
            if not trials and stage == "structure":
                raise KeyboardInterrupt

    options = {**TINY, "strategy": "random", "trials": 4, "output": tmp_path / "a run"}
    with pytest.raises(Interrupted) as caught:
        autoprune.search(classifier(), data=dataset(), progress=Impatient(), **options)
    told = str(caught.value)
    if trials:
        assert f"autoprune search --resume --output '{tmp_path}/a run'" in told
        assert f"autoprune.search(…, output='{tmp_path}/a run', resume=True)" in told
    else:
        assert told == "Interrupted before the first trial: nothing was written."

"""What a resumed run must agree on with the run as it was begun."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from autoprune.engine.begin import at_once_of, begin_run, is_complete, resume_run
from autoprune.engine.ray_cluster import with_workers
from autoprune.errors import RunError, UsageError
from autoprune.options.search import SearchConfig
from autoprune.study.run_directory import RunDirectory
from autoprune.version import __version__


def settings(**options: Any) -> tuple[dict[str, Any], SearchConfig]:
    config = with_workers(SearchConfig.from_mapping({"budget": "flops=0.5", **options}), None)
    return {"autoprune": __version__, "device": "cpu", **config.to_mapping()}, config


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    found = RunDirectory(tmp_path / "run")
    found.create({**settings(trials=5)[0], "judge": "one-shot", "repair_samples": 64})
    return found


def test_limits_may_be_raised_and_the_choices_of_the_run_are_known(run: RunDirectory) -> None:
    begun = resume_run(run, *settings(trials=9, time="1h", recover="off"))
    assert (begun["trials"], begun["judge"], begun["repair_samples"]) == (5, "one-shot", 64)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": 1}, "with seed=1: it was begun with 0"),
        ({"budget": "flops=0.4"}, "with budget='flops=0.4': it was begun with 'flops=0.5'"),
        ({"strategy": "bayes"}, "with strategy='bayes': it was begun with 'auto'"),
        ({"engine": {"rounds": {"most": 1}}}, "with engine="),
        ({"at_once": 2}, "with at_once=2: it was begun with 1"),
    ],
)
def test_everything_else_stays(options: dict[str, Any], said: str, run: RunDirectory) -> None:
    with pytest.raises(UsageError, match=said):
        resume_run(run, *settings(**options))


@pytest.mark.parametrize(
    ("stored", "at_once"), [({}, 1), ({"workers": 3}, 3), ({"workers": 3, "at_once": 8}, 8)]
)
def test_candidates_at_once_are_as_many_as_before(stored: dict[str, int], at_once: int) -> None:
    assert at_once_of(stored) == at_once


def test_options_of_a_later_version_are_named(run: RunDirectory) -> None:
    run.save_config({**run.load_config(), "autoprune": "9.0", "horizon": 3})
    with pytest.raises(UsageError, match=r"'9.0' with horizon=3, an option that version"):
        resume_run(run, *settings())


def test_a_run_of_an_older_version_goes_on_as_it_was_begun(
    run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    before = run.load_config()
    for newer in ("train_frozen", "exclude_outputs"):
        before.pop(newer)
    run.save_config({**before, "exclude": ["head"]})
    with caplog.at_level(logging.INFO, "autoprune"):
        begun = resume_run(run, *settings(exclude_outputs="head", train_frozen=True))
    assert (begun["exclude"], begun["exclude_outputs"]) == ([], ["head"])
    assert "goes on as it was begun" in caplog.text


@pytest.mark.parametrize(
    ("options", "goes_on"),
    [
        ({}, False),
        ({"trials": 5}, False),
        ({"trials": 6}, True),
        ({"recover": "2m"}, True),
        ({"recover": "9steps"}, True),
        ({"recover": "off"}, False),
    ],
)
def test_a_finished_run_goes_on_with_more(
    options: dict[str, Any], goes_on: bool, run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    limits = {"trials": 5, "time": None, "recover": 60.0}
    result = {"version": 1, "search": {"trials": 5, "limits": limits}}
    run.result_path.write_text(json.dumps(result))
    _, config = settings(**options)
    with caplog.at_level(logging.INFO, "autoprune"):
        assert is_complete(run, config) is not goes_on
    assert ("is finished (5 trials): raise trials" in caplog.text) is not goes_on


def test_a_length_that_nobody_wrote_is_named(run: RunDirectory) -> None:
    limits = {"trials": 5, "time": None, "recover": "soon"}
    run.result_path.write_text(json.dumps({"version": 1, "search": {"limits": limits}}))
    with pytest.raises(RunError, match=r"result.json' was altered: recover is 'soon' there"):
        is_complete(run, settings()[1])


def test_a_new_run_needs_a_place_of_its_own(run: RunDirectory) -> None:
    with pytest.raises(RunError, match="holds another run"):
        begin_run(run, {})


def test_a_storage_stays_as_it_was_begun(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"with a storage: it was begun without one; .*warm_from"):
        resume_run(run, *settings(storage="sqlite:///shared.db"))
    monkeypatch.chdir(tmp_path)
    run.save_config({**run.load_config(), "storage": f"sqlite:///{tmp_path}/shared.db"})
    resume_run(run, *settings(storage="sqlite:///shared.db"))
    with pytest.raises(UsageError, match="without the storage that it was begun with"):
        resume_run(run, *settings())

"""A search writes down what happens, and where it stands."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoprune.core.progress import Progress, SearchState
from autoprune.errors import RunError
from autoprune.reporting.wording import UNKNOWN, duration
from autoprune.study import run_log
from autoprune.study.run_directory import RunDirectory
from autoprune.study.run_log import Standing, load_standing, logged

log = logging.getLogger("autoprune.somewhere")


class Told(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.news: list[object] = []

    def step(self, stage: str, done: int, total: int) -> None:
        self.news.append((stage, done, total))

    def searched(self, state: SearchState) -> None:
        self.news.append(state)


def state(done: int) -> SearchState:
    return SearchState(done, 9, -0.5, "kl 0.5000")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def test_news_are_passed_on_and_written_down(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, now = Told(), iter([100.0, 130.0, 190.0])
    monkeypatch.setattr(run_log, "time", SimpleNamespace(time=lambda: next(now)))
    with logged(run, told) as progress:
        for done in (3, 4, 6):
            progress.searched(state(done))
    assert told.news == [state(3), state(4), state(6)]
    standing = load_standing(run)
    assert standing == Standing("search", 6, 9, 2, 100.0, 190.0)
    assert standing.per_minute == pytest.approx(4 / 1.5)
    assert standing.seconds_left == pytest.approx(3 * 90 / 4)


def test_a_stage_is_written_when_it_begins_and_ends(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "time", SimpleNamespace(time=lambda: 100.0))
    with logged(run, Progress()) as progress:
        seen = []
        for done in (1, 2, 3):
            progress.step("finalists", done, 3)
            seen.append(load_standing(run))
    assert [one and one.done for one in seen] == [1, 1, 3]
    assert seen[0] is not None and seen[0].per_minute is seen[0].seconds_left is None


def test_the_log_goes_on_and_has_notes_trials_and_the_end(
    run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)  # of the root logger: a library may raise it
    with logged(run, Progress()) as progress:
        progress.step("paths", 1, 2)
        log.warning("the test split is damaged")
    with pytest.raises(KeyboardInterrupt), logged(run, Progress()) as progress:
        progress.searched(state(1))
        raise KeyboardInterrupt
    log.warning("nobody listens any more")
    lines = [line.split(" ", 2)[2] for line in run.log_path.read_text().splitlines()]
    assert lines[:-1] == [
        "INFO stage paths",
        "WARNING the test split is damaged",
        "INFO trial 1 of 9: best reward -0.5; last kl 0.5000",
    ]
    assert lines[-1].startswith("INFO ended by KeyboardInterrupt")


def test_a_link_is_not_written_through(run: RunDirectory, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    run.log_path.symlink_to(victim)
    with logged(run, Progress()) as progress:
        progress.step("paths", 1, 2)
    assert victim.read_text() == "mine" and "stage paths" in run.log_path.read_text()


@pytest.mark.parametrize("text", ["", "[]", '{"stage": "x"}', '{"stage": 3}'])
def test_a_damaged_standing_is_named(text: str, run: RunDirectory) -> None:
    assert load_standing(run) is None
    run.standing_path.write_text(text)
    with pytest.raises(RunError, match=r"cannot read .*standing.json"):
        load_standing(run)


def test_a_search_is_not_lost_where_its_standing_cannot_be_written(run: RunDirectory) -> None:
    run.standing_path.mkdir()
    with logged(run, Progress()) as progress:
        progress.step("search", 1, 2)


def test_a_pace_of_next_to_nothing_says_nothing(run: RunDirectory) -> None:
    assert duration(float("inf")) == UNKNOWN
    text = '{"stage":"search","done":1,"total":2,"first":0,"began":0.0,"at":1e300}'
    run.standing_path.write_text(text)
    with pytest.raises(RunError):
        load_standing(run)

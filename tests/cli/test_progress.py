from __future__ import annotations

import io

from autoprune.cli.progress_bars import RichProgress, listen
from autoprune.core.progress import PlainProgress, Progress, SearchState


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_are_few() -> None:
    stream, now = io.StringIO(), [0.0]
    progress = PlainProgress(stream, interval=5.0, clock=lambda: now[0])
    for done in range(1, 101):
        now[0] += 0.125
        progress.step("statistics", done, 100)
    assert stream.getvalue().splitlines() == [
        "statistics: 40 of 100, 8 s left",
        "statistics: 80 of 100, 2 s left",
        "statistics: 100 of 100",
    ]


def test_the_time_left_is_that_of_what_is_measured_now() -> None:
    stream, now = io.StringIO(), [0.0]
    progress = PlainProgress(stream, interval=0.0, clock=lambda: now[0])
    steps = [(90, 200), (100, 200), (120, 420), (120, 120), (0, 10), (5, 10)]
    for seconds, (done, total) in enumerate(steps):
        now[0] = 10.0 * seconds
        progress.step("latency", done, total)
    assert stream.getvalue().splitlines() == [
        "latency: 90 of 200",  # of these, 90 were measured before
        "latency: 100 of 200, 100 s left",
        "latency: 120 of 420, 3 min left",
        "latency: 120 of 120",
        "latency: 0 of 10",
        "latency: 5 of 10, 10 s left",
    ]


def test_plain_search() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream)
    progress.note("bayes: up to 2 trials")
    progress.searched(SearchState(1, 2, -0.5, "kl 0.5"))
    progress.searched(SearchState(2, 2, -0.25, "kl 0.25"))
    assert stream.getvalue().splitlines() == [
        "bayes: up to 2 trials",
        "search: 2 of 2, best reward -0.25; last kl 0.25",
    ]


def test_who_listens() -> None:
    with listen(quiet=True) as progress:
        assert type(progress) is Progress
    with listen(stream=io.StringIO()) as progress:
        assert isinstance(progress, PlainProgress)


def test_bars_on_a_terminal() -> None:
    terminal = Terminal()
    with listen(stream=terminal) as progress:
        assert isinstance(progress, RichProgress)
        progress.step("structure", 3, 3)
        progress.note("bayes: [2] trials")
        progress.searched(SearchState(1, 2, None, "failed: [why]"))
    assert "structure" in terminal.getvalue() and "bayes: [2] trials" in terminal.getvalue()
    assert "failed: [why]" in terminal.getvalue()


def test_a_search_says_what_it_costs_fails_and_takes() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream, interval=0.0)
    state = SearchState(
        3, 9, -0.5, "kl 0.5", costs={"flops": 0.498}, failed=1, per_minute=12.0, seconds_left=30.0
    )
    progress.searched(state)
    assert stream.getvalue().splitlines() == [
        "search: 3 of 9, best reward -0.5 at flops 49.8%; last kl 0.5; 1 failed; 12 a minute, "
        "30 s left"
    ]

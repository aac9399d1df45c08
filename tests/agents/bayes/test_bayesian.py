from __future__ import annotations

import logging
from dataclasses import replace
from statistics import median
from typing import Any

import optuna
import pytest

from autoprune.agents.bayes.strategy import BayesianConfig, BayesianStrategy, scopes
from autoprune.agents.registry import make_strategy
from autoprune.agents.tools.warm_starts import warm_starts
from autoprune.core.policy import Widths
from autoprune.errors import UsageError
from autoprune.search_spaces.greedy import least_loss
from autoprune.study.trial import Trial

SAMPLERS = ("tpe", "gp", "cmaes")


def best(
    make_toy: Any, play: Any, name: str, sampler: str | None, seed: int, evaluations: int
) -> float:
    toy = make_toy([12] * 6, has_errors=False, seed=seed)
    trials = play(make_strategy(name, toy.problem, sampler=sampler), toy.value, evaluations)
    return float(max(trial.value for trial in trials))


@pytest.mark.parametrize(("sampler", "evaluations"), [("tpe", 60), ("gp", 14), ("cmaes", 60)])
def test_beats_random_search(sampler: str, evaluations: int, make_toy: Any, play: Any) -> None:
    """None of the three is told any error curve."""
    ours, randoms = (
        [best(make_toy, play, name, chosen, seed, evaluations) for seed in range(count)]
        for name, chosen, count in (("bayes", sampler, 3), ("random", None, 9))
    )
    assert median(ours) > median(randoms)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_small_space_is_searched_until_little_is_left(
    sampler: str, make_toy: Any, play: Any
) -> None:
    """A sampler that has converged on known widths neither ends the search nor takes for ever."""
    toy = make_toy([4, 4, 4], has_errors=False)
    trials = play(make_strategy("bayes", toy.problem, sampler=sampler), toy.value, 100)
    fits, up = toy.problem.projection.fits, toy.problem.space.next_up
    maximal = [
        widths
        for widths in toy.candidates()
        if not any(wider and fits(wider) for wider in (up(widths, g) for g in range(3)))
    ]
    assert len(trials) >= 0.7 * len(maximal)
    assert max(trial.value for trial in trials) == toy.optimum()


def test_starts_from_what_is_known(make_toy: Any, play: Any) -> None:
    toy, blind = make_toy([12, 7, 9]), make_toy([12, 7, 9], has_errors=False)
    uniform = toy.problem.projection.project([1, 1, 1])
    assert warm_starts(toy.problem) == [
        uniform,
        least_loss(toy.problem.projection, toy.problem.rankings),
    ]
    assert warm_starts(blind.problem) == [uniform]
    asked = [
        t.candidate.widths for t in play(BayesianStrategy().started(toy.problem), toy.value, 2)
    ]
    assert asked == warm_starts(toy.problem)


def test_starts_from_every_size_without_a_budget(make_toy: Any) -> None:
    problem = make_toy([16, 8], bounded=False).problem
    assert warm_starts(problem) == [(16, 8), (12, 6), (8, 4), (4, 2)]


def test_learns_where_the_projection_led(make_toy: Any, play: Any) -> None:
    """TPE and GP read keep ratios of evaluated widths, CMA-ES its own raw ones."""
    toy = make_toy([12, 7, 9])
    for sampler in ("tpe", "gp", "cmaes"):
        strategy = BayesianStrategy(sampler=sampler).started(toy.problem)
        evaluated = {t.candidate.widths for t in play(strategy, toy.value, 6)}
        complete = strategy._study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        told = {_widths(toy, trial.params) for trial in complete}
        on_grid = {widths for widths in told if widths is not None}
        assert on_grid <= evaluated
        assert (None in told) == (sampler == "cmaes")


def _widths(toy: Any, params: dict[str, float]) -> Widths | None:
    """Return the widths that keep ratios mean exactly, None if they lie between."""
    space = toy.problem.space
    exact = [params[n] * s for n, s in zip(space.names, space.sizes, strict=True)]
    widths = tuple(round(w) for w in exact)
    return widths if max(abs(a - b) for a, b in zip(exact, widths, strict=True)) < 1e-9 else None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_warns_of_nothing(
    sampler: str, make_toy: Any, play: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for sizes in ([12], [12, 7, 9]):
        toy = make_toy(sizes, keep=0.7)
        play(make_strategy("bayes", toy.problem, sampler=sampler), toy.value, 13)
    warnings = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    # Without the package `greenlet` Optuna says once that its GP is slower.
    assert not [message for message in warnings if "greenlet" not in message]


def test_scopes_double_up_to_what_the_trials_can_tell_apart() -> None:
    config = BayesianConfig()
    assert scopes(config.most_coordinates, 400, config) == (config.most_coordinates,)
    assert scopes(28, 400, config) == (2, 4, 8, 16, 28)
    assert scopes(150, 400, config) == (2, 4, 8, 16, 32, 64, 100)
    assert scopes(150, 5, config) == (2,)


def test_many_groups_are_searched_in_bins(make_toy: Any, play: Any) -> None:
    """Where neighbours are alike, forty of them are found as quickly as a few."""
    gains = []
    for seed in range(3):
        toy = make_toy([12] * 40, has_errors=False, seed=seed, trials=60)
        # The first half of the network hardly matters, and nothing says so.
        curves = [[(1.0 if g < 20 else 9.0) * (1 - w / 12) ** 2 for w in range(13)]
                  for g in range(40)]  # fmt: skip
        toy = replace(toy, curves=curves)
        whole = replace(toy.problem, trials=10**6)  # all of it is played in two bins
        uniform, *found = (
            max(t.value for t in play(BayesianStrategy().started(problem), toy.value, count))
            for problem, count in ((toy.problem, 1), (toy.problem, 60), (whole, 60))
        )
        blind = max(t.value for t in play(make_strategy("random", toy.problem), toy.value, 60))
        assert min(found) > max(uniform, blind)
        gains.append(found[0] - uniform)
    assert median(gains) > 1.0


# The GP takes seconds for every candidate.
@pytest.mark.parametrize(
    ("sampler", "trials", "bins"),
    [("tpe", 48, (2, 4, 8, 12)), ("gp", 16, (2, 4)), ("cmaes", 48, (2, 4, 8, 12))],
)
def test_bins_are_split_around_the_best(
    sampler: str, trials: int, bins: tuple[int, ...], make_toy: Any, play: Any
) -> None:
    toy, share = make_toy([8] * 20, trials=trials), trials // len(bins)
    strategy = BayesianStrategy(sampler=sampler).started(toy.problem)
    seen = []
    for _ in range(trials):
        (trial,) = play(strategy, toy.value, 1)
        seen.append(trial.candidate.widths)
        if len(seen) > 2:
            assert strategy._bins == bins[(len(seen) - 1) // share]
    assert len(set(seen)) == trials
    best = max(seen[:-share], key=toy.value)
    view = strategy._view
    assert view.ratios(dict.fromkeys(view.distributions, 0.0)) == pytest.approx(
        toy.problem.space.ratios(best)
    )


def test_bins_are_replayed(make_toy: Any, play: Any) -> None:
    toy = make_toy([8] * 20, trials=48)
    one, two = (play(BayesianStrategy().started(toy.problem), toy.value, 48) for _ in range(2))
    assert [trial.candidate for trial in one] == [trial.candidate for trial in two]


def test_unknown_sampler() -> None:
    with pytest.raises(UsageError, match="did you mean 'cmaes'"):
        BayesianStrategy(sampler="cma")


@pytest.mark.parametrize(("sampler", "batches"), [("tpe", 10), ("gp", 4), ("cmaes", 10)])
@pytest.mark.parametrize("sizes", [[20, 30, 40], [6] * 20])
def test_several_candidates_can_be_on_their_way(
    sizes: list[int], sampler: str, batches: int, make_toy: Any
) -> None:
    """Told four at a time, a strategy knows what it waits for and asks for nothing twice."""
    toy = make_toy(sizes, trials=4 * batches)
    strategy = BayesianStrategy(sampler=sampler).started(toy.problem)
    asked: list[Widths] = []
    for _ in range(batches):
        batch = [strategy.ask() for _ in range(4)]
        assert None not in batch
        running = strategy._study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
        assert len(running) == len(
            [q for q in strategy._asked.values() if q and q.study is strategy._study]
        )
        if sampler != "cmaes":
            assert len(running) == 4
        for candidate in batch:
            asked.append(candidate.widths)
            strategy.tell(Trial(candidate, toy.value(candidate.widths)))
        assert not strategy._asked
    assert len(set(asked)) == len(asked) == 4 * batches


@pytest.mark.parametrize(("sampler", "evaluations"), [("tpe", 60), ("gp", 16), ("cmaes", 60)])
def test_batches_beat_random_search(sampler: str, evaluations: int, make_toy: Any) -> None:
    ours, randoms = [], []
    for seed in range(3):
        for name, found in (("bayes", ours), ("random", randoms)):
            toy = make_toy([12] * 6, has_errors=False, seed=seed)
            options = {"sampler": sampler} if name == "bayes" else {}
            strategy, values = make_strategy(name, toy.problem, **options), []
            for _ in range(evaluations // 4):
                for candidate in [strategy.ask() for _ in range(4)]:
                    values.append(toy.value(candidate.widths))
                    strategy.tell(Trial(candidate, values[-1]))
            found.append(max(values))
    assert median(ours) > median(randoms)

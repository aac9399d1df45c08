"""Bayesian optimization of the keep ratios with Optuna's samplers."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import optuna

from autoprune.agents.global_ranking import warm_starts
from autoprune.errors import UsageError, did_you_mean
from autoprune.policy import Widths
from autoprune.search_spaces.embedding import Embedding, split_bins
from autoprune.search_spaces.optuna_view import BinView, GroupView, View
from autoprune.strategy import Candidate, SearchProblem, Strategy, Trial

# Raw vectors in a row that may fold onto known widths before a step away from there is tried.
_MOST_FOLDED = 5
# Steps that are tried, ever wider, before all widths within reach count as known.
_STEPS = 100
# With more groups than this, a hundred trials say too little of every single one.
MOST_COORDINATES = 12
# Bins of the groups to begin with, and trials for each at the end.
FIRST_BINS, TRIALS_PER_BIN = 2, 4
# How far the first bins can be moved, as the logarithm of a keep ratio. More of them move less: the
# distance that they can go together stays.
REACH = 0.8
# Of what was evaluated, the best so many are known to a sampler that begins anew.
KNOWN = 150


class BayesianStrategy(Strategy):
    """Samplers propose a raw vector in a box, and the projection puts it on the budget.

    Many raw vectors fold onto the same widths. GP and TPE therefore learn the projected keep
    ratios, which are what was evaluated; CMA-ES, which reads nothing but trials that it asked for,
    learns its own raw ones. A sampler that insists on known widths (the GP, whose model they leave
    as it was) gets new ones near by. The first candidates are the uniform one and, where the
    criterion gives errors, the one of least reconstruction error; without a budget, uniform ones
    from the dense network down.

    A few groups are a coordinate each. Many are moved in bins of neighbours, away from the best
    widths so far; in equal shares of the trials there are twice as many bins each time, and the
    sampler begins anew around what is best by then, knowing what was evaluated.
    """

    name: ClassVar[str] = "bayes"
    needs_budget: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ("sampler",)

    def __init__(self, problem: SearchProblem, sampler: str = "tpe") -> None:
        super().__init__(problem)
        self.check_options(sampler=sampler)
        self._sampler = sampler
        self._random = np.random.default_rng(problem.seed)
        self._values: dict[Widths, float | None] = {}
        self._asked: optuna.Trial | None = None
        self._warm_starts = warm_starts(problem)
        self._scopes = scopes(len(problem.space), problem.trials)
        self._weights = problem.episode().savings + 1e-6
        self._bins = 0

    @classmethod
    def check_options(cls, sampler: str = "tpe", **options: Any) -> None:
        """Refuse an unknown sampler.

        Raises:
            UsageError: there is no such sampler.
        """
        super().check_options(**options)
        if sampler not in SAMPLERS:
            raise UsageError(f"unknown sampler {sampler!r}; {did_you_mean(sampler, SAMPLERS)}")

    def ask(self) -> Candidate | None:
        """Return widths that were not asked for before."""
        if self._warm_starts:
            return Candidate(self._warm_starts.pop(0))
        self._widen()
        for _ in range(_MOST_FOLDED):
            raw = self._study.ask(dict(self._view.distributions))
            wanted = self._view.ratios(raw.params)
            widths = self.problem.projection.project(wanted)
            if widths not in self._values:
                self._asked = raw
                return Candidate(widths)
            self._answer(raw, self._values[widths])
        return self._near(wanted)

    def _widen(self) -> None:
        """Begin anew where it is time for more bins."""
        share = len(self._values) / self.problem.trials
        bins = self._scopes[min(int(share * len(self._scopes)), len(self._scopes) - 1)]
        if bins == self._bins:
            return
        self._bins = bins
        self._view = self._view_of(bins)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            chooser = SAMPLERS[self._sampler](self.problem.seed)
        self._study = optuna.create_study(direction="maximize", sampler=chooser)
        known = set(self._best_first()[:KNOWN])
        for widths in self._values:
            if widths in known and self._view.sees(widths):
                self._learn(widths)

    def _view_of(self, bins: int) -> View:
        space = self.problem.space
        if len(space) <= MOST_COORDINATES:
            return GroupView(space)
        best = [*self._best_first(), *self._values][0]
        embedding = Embedding(space.ratios(best), split_bins(self._weights.tolist(), bins))
        return BinView(space, embedding, REACH * math.sqrt(FIRST_BINS / bins))

    def _best_first(self) -> list[Widths]:
        valued = {widths: value for widths, value in self._values.items() if value is not None}
        return sorted(valued, key=lambda widths: -valued[widths])

    def _near(self, wanted: npt.NDArray[np.float64]) -> Candidate | None:
        """Return new widths a random step away, None if every step leads to known ones."""
        for spread in np.geomspace(0.01, 1.0, _STEPS):
            step = self._random.normal(scale=spread, size=len(wanted))
            widths = self.problem.projection.project((wanted + step).clip(0.0, 1.0))
            if widths not in self._values:
                return Candidate(widths)
        return None

    def tell(self, trial: Trial) -> None:
        """Learn the value of the widths."""
        widths, value = trial.candidate.widths, trial.value
        self._values[widths] = value
        if self._asked is not None:
            self._answer(self._asked, value)
            self._asked = None
        if value is not None and self._bins:
            self._learn(widths)

    def _learn(self, widths: Widths) -> None:
        """Tell the sampler what widths are worth, if it can be told."""
        if self._learns_raw:
            return
        ranges, value = dict(self._view.distributions), self._values[widths]
        params = self._view.parameters(widths)
        self._study.add_trial(optuna.create_trial(params=params, distributions=ranges, value=value))

    def _answer(self, raw: optuna.Trial, value: float | None) -> None:
        """Close a question of the sampler's own."""
        if self._learns_raw and value is not None:
            self._study.tell(raw, value)
        else:
            self._study.tell(raw, state=optuna.trial.TrialState.FAIL)

    @property
    def _learns_raw(self) -> bool:
        return self._sampler == "cmaes"


def scopes(groups: int, trials: int) -> tuple[int, ...]:
    """Return the numbers of bins that so many groups are searched in, one after the other."""
    if groups <= MOST_COORDINATES:
        return (groups,)
    most = max(min(groups, trials // TRIALS_PER_BIN), FIRST_BINS)
    doubled = itertools.takewhile(
        lambda bins: bins < most, (FIRST_BINS * 2**i for i in itertools.count())
    )
    return (*doubled, most)


def _gp(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, deterministic_objective=True)


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=20)


def _cmaes(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seed)


SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "gp": _gp,
    "tpe": _tpe,
    "cmaes": _cmaes,
}

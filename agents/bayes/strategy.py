"""Bayesian optimization of the keep ratios with Optuna's samplers."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import optuna

from autoprune.agents.base import SearchProblem, Strategy, best_first
from autoprune.agents.bayes.embedding import BinView, Embedding, split_bins
from autoprune.agents.config import Count, Positive
from autoprune.agents.tools.warm_starts import warm_starts
from autoprune.core.policy import Widths
from autoprune.errors import UsageError, did_you_mean
from autoprune.study.optuna_view import GroupView, View
from autoprune.study.trial import Candidate, Trial


def _gp(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, deterministic_objective=True)


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(
        seed=seed, multivariate=True, n_startup_trials=20, constant_liar=True
    )


def _cmaes(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seed)


SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "gp": _gp,
    "tpe": _tpe,
    "cmaes": _cmaes,
}


@dataclass(frozen=True)
class BayesianConfig:
    """Options of the Bayesian search.

    Attributes:
        sampler: of Optuna: "tpe", "gp" or "cmaes".
        most_repeats: vectors in a row that may be projected onto known widths before random steps
            away from there are tried.
        most_steps: of these, ever wider, before all widths within reach count as known.
        most_coordinates: groups that are a coordinate each; with more of them, a hundred trials say
            too little of every single one.
        first_bins: bins of the groups to begin with.
        trials_per_bin: trials for each bin at the end.
        reach: how far the first bins can be moved, as the logarithm of a keep ratio. More of them
            move less: the distance that they can go together stays.
        slack: widths further away than the reach, but by this factor at most, count as its border.
        known: the most evaluated widths, best first, that the sampler of more bins is given.
    """

    sampler: str = "tpe"
    most_repeats: Count = 5
    most_steps: Count = 100
    most_coordinates: Count = 12
    first_bins: Count = 2
    trials_per_bin: Count = 4
    reach: Positive = 0.8
    slack: Positive = 1.5
    known: Count = 150

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            hint = did_you_mean(self.sampler, SAMPLERS)
            raise UsageError(f"unknown sampler {self.sampler!r}; {hint}")


@dataclass(frozen=True)
class _Open:
    """A trial of a sampler's study that is on its way.

    TPE takes it that those turn out badly (the constant liar of Ginsbourger et al. 2010, "Kriging
    is well-suited to parallelize optimization"), Optuna's GP of today imagines how they may, and
    CMA-ES draws a generation without knowing of any: several at once are not alike.
    """

    study: optuna.Study
    number: int

    def close(self, value: float | None) -> None:
        """Say what came of it; None is nothing."""
        state = optuna.trial.TrialState.FAIL if value is None else None
        self.study.tell(self.number, value, state=state)


class BayesianStrategy(Strategy):
    """Samplers propose a raw vector in a box, and the projection puts it on the budget.

    Many raw vectors are projected onto the same widths. GP and TPE therefore learn the projected
    keep ratios, which are what was evaluated; CMA-ES, which reads nothing but trials that it asked
    for, learns its own raw ones. A sampler that insists on known widths (the GP, whose model they
    leave as it was) gets new ones near by. Several candidates may be on their way: samplers are
    told of them at once, without a value. The first candidates are the uniform one and, where the
    criterion gives errors, the one of least expected loss; without a budget, uniform ones from the
    dense network down.

    A few groups are a coordinate each. Many are moved in bins of neighbours, away from the best
    widths so far; in equal shares of the trials there are twice as many bins each time, and the
    sampler begins again around what is best by then, knowing what was evaluated.
    """

    name = "bayes"
    needs_budget = False
    config = BayesianConfig()

    def start(self, problem: SearchProblem) -> None:
        """Begin with the warm starts; the first sampler is made after them."""
        self._random = np.random.default_rng(problem.seed)
        self._values: dict[Widths, float | None] = {}
        self._asked: dict[Widths, _Open | None] = {}
        self._warm_starts = warm_starts(problem)
        self._first = self._warm_starts[0]
        self._scopes = scopes(len(problem.space), problem.trials, self.config)
        self._weights = problem.episode().savings + 1e-6
        self._bins = 0

    def ask(self) -> Candidate | None:
        """Return widths that were not proposed before."""
        if self._warm_starts:
            return self._proposal(self._warm_starts.pop(0))
        self._widen()
        for _ in range(self.config.most_repeats):
            trial = self._study.ask(dict(self._view.distributions))
            raw = _Open(self._study, trial.number)
            wanted = self._view.ratios(trial.params)
            widths = self.problem.projection.project(wanted)
            if self._is_new(widths):
                return self._proposal(widths, raw)
            raw.close(self._values.get(widths) if self._learns_raw else None)
        near = self._near(wanted)
        return None if near is None else self._proposal(near)

    def _proposal(self, widths: Widths, raw: _Open | None = None) -> Candidate:
        """Return the candidate of widths, which may be the projection of a sampler's raw vector."""
        if not self._learns_raw:
            if raw is not None:
                raw.close(None)
            raw = self._open(widths)
        self._asked[widths] = raw
        return Candidate(widths, awaited=False)

    def _open(self, widths: Widths) -> _Open | None:
        """Let the sampler know that widths are on their way; None before there is one."""
        if not self._bins:
            return None
        self._study.add_trial(
            optuna.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params=self._view.parameters(widths),
                distributions=dict(self._view.distributions),
            )
        )
        return _Open(self._study, len(self._study.get_trials(deepcopy=False)) - 1)

    def _is_new(self, widths: Widths) -> bool:
        return widths not in self._values and widths not in self._asked

    def _widen(self) -> None:
        """Begin with a new sampler where it is time for more bins."""
        share = len(self._values) / self.problem.trials
        bins = self._scopes[min(int(share * len(self._scopes)), len(self._scopes) - 1)]
        if bins == self._bins:
            return
        self._bins = bins
        self._view = self._view_of(bins)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            chooser = SAMPLERS[self.config.sampler](self.problem.seed)
        self._study = optuna.create_study(direction="maximize", sampler=chooser)
        if self._learns_raw:
            return
        known = set(best_first(self._values)[: self.config.known])
        for widths, value in self._values.items():
            if widths in known and self._view.sees(widths) and (told := self._open(widths)):
                told.close(value)
        self._asked = {w: self._open(w) if self._view.sees(w) else None for w in self._asked}

    def _view_of(self, bins: int) -> View:
        space, own = self.problem.space, self.config
        if len(space) <= own.most_coordinates:
            return GroupView(space)
        best = next(iter(best_first(self._values)), self._first)
        centre = space.ratios_above_zero(best)
        embedding = Embedding(centre, split_bins(self._weights.tolist(), bins))
        reach = own.reach * math.sqrt(own.first_bins / bins)
        return BinView(space, embedding, reach, own.slack)

    def _near(self, wanted: npt.NDArray[np.float64]) -> Widths | None:
        """Return new widths a random step away, None if all that were tried are known."""
        for spread in np.geomspace(0.01, 1.0, self.config.most_steps):
            step = self._random.normal(scale=spread, size=len(wanted))
            widths = self.problem.projection.project((wanted + step).clip(0.0, 1.0))
            if self._is_new(widths):
                return widths
        return None

    def tell(self, trial: Trial) -> None:
        """Learn the value of the widths."""
        widths, value = trial.candidate.widths, trial.value
        self._values[widths] = value
        if (asked := self._asked.pop(widths)) is not None:
            asked.close(value)

    @property
    def _learns_raw(self) -> bool:
        return bool(self.config.sampler == "cmaes")


def scopes(groups: int, trials: int, config: BayesianConfig) -> tuple[int, ...]:
    """Return the numbers of bins in which groups are searched, one after the other."""
    if groups <= config.most_coordinates:
        return (groups,)
    first = config.first_bins
    most = max(min(groups, trials // config.trials_per_bin), first)
    doubled = itertools.takewhile(
        lambda bins: bins < most, (first * 2**i for i in itertools.count())
    )
    return (*doubled, most)

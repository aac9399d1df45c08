"""Bayesian optimization of the keep ratios with Optuna's samplers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import optuna

from autoprune.agents.global_ranking import warm_starts
from autoprune.errors import UsageError, did_you_mean
from autoprune.policy import Widths
from autoprune.search_spaces.optuna_view import distributions, parameters, ratios
from autoprune.strategy import Candidate, SearchProblem, Strategy, Trial

# Raw vectors in a row that may fold onto known widths before a step away from there is tried.
_MOST_FOLDED = 5
# Steps that are tried, ever wider, before all widths within reach count as known.
_STEPS = 100


class BayesianStrategy(Strategy):
    """Samplers propose a raw vector in the unit box, and the projection puts it on the budget.

    Many raw vectors fold onto the same widths. GP and TPE therefore learn the projected keep
    ratios, which are what was evaluated; CMA-ES, which reads nothing but trials that it asked for,
    learns its own raw ones. A sampler that insists on known widths (the GP, whose model they leave
    as it was) gets new ones near by. The first candidates are the uniform one and, where the
    criterion gives errors, the one of least reconstruction error; without a budget, uniform ones
    from the dense network down.
    """

    name: ClassVar[str] = "bayes"
    needs_budget: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ("sampler",)

    def __init__(self, problem: SearchProblem, sampler: str = "tpe") -> None:
        super().__init__(problem)
        self.check_options(sampler=sampler)
        self._learns_raw = sampler == "cmaes"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            chooser = SAMPLERS[sampler](problem.seed)
        self._study = optuna.create_study(direction="maximize", sampler=chooser)
        self._random = np.random.default_rng(problem.seed)
        self._distributions = distributions(problem.space)
        self._values: dict[Widths, float | None] = {}
        self._asked: optuna.Trial | None = None
        self._warm_starts = warm_starts(problem)

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
        for _ in range(_MOST_FOLDED):
            raw = self._study.ask(self._distributions)
            wanted = ratios(self.problem.space, raw.params)
            widths = self.problem.projection.project(wanted)
            if widths not in self._values:
                self._asked = raw
                return Candidate(widths)
            self._answer(raw, self._values[widths])
        return self._near(wanted)

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
        if value is not None and not self._learns_raw:
            params = parameters(self.problem.space, widths)
            self._study.add_trial(
                optuna.create_trial(params=params, distributions=self._distributions, value=value)
            )

    def _answer(self, raw: optuna.Trial, value: float | None) -> None:
        """Close a question of the sampler's own."""
        if self._learns_raw and value is not None:
            self._study.tell(raw, value)
        else:
            self._study.tell(raw, state=optuna.trial.TrialState.FAIL)


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

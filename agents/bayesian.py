"""Bayesian optimization of the keep ratios with Optuna's samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import optuna

from autoprune.agents.global_ranking import least_error
from autoprune.errors import UsageError, did_you_mean
from autoprune.policy import Widths
from autoprune.search_spaces.optuna_view import distributions, parameters, ratios
from autoprune.strategy import Candidate, SearchProblem, Strategy, Trial

# Raw vectors that the projection folds onto known widths, one after the other, before giving up.
_PATIENCE = 100


class BayesianStrategy(Strategy):
    """Samplers propose a raw vector in the unit box, and the projection puts it on the budget.

    Many raw vectors fold onto the same widths. GP and TPE therefore learn the projected keep
    ratios, which are what was evaluated; CMA-ES, which reads nothing but trials that it asked for,
    learns its own raw ones. The first candidates are the uniform one and, where the criterion gives
    errors, the one of least reconstruction error.
    """

    name: ClassVar[str] = "bayes"

    def __init__(self, problem: SearchProblem, sampler: str = "tpe") -> None:
        """Choose the sampler.

        Raises:
            UsageError: no such sampler.
        """
        super().__init__(problem)
        if sampler not in SAMPLERS:
            raise UsageError(f"unknown sampler {sampler!r}; {did_you_mean(sampler, SAMPLERS)}")
        self._learns_raw = sampler == "cmaes"
        self._study = optuna.create_study(
            direction="maximize", sampler=SAMPLERS[sampler](problem.seed)
        )
        self._distributions = distributions(problem.space)
        self._values: dict[Widths, float | None] = {}
        self._asked: optuna.Trial | None = None
        self._warm_starts = warm_starts(problem)

    def ask(self) -> Candidate | None:
        """Return widths that were not asked for before."""
        while self._warm_starts:
            widths = self._warm_starts.pop(0)
            if widths not in self._values:
                return Candidate(widths)
        for _ in range(_PATIENCE):
            raw = self._study.ask(self._distributions)
            widths = self.problem.projection.project(ratios(self.problem.space, raw.params))
            if widths not in self._values:
                self._asked = raw
                return Candidate(widths)
            self._learn(raw, widths)
        return None

    def tell(self, trial: Trial) -> None:
        """Learn the value of the widths."""
        widths = trial.candidate.widths
        self._values[widths] = trial.value
        if self._asked is not None:
            self._learn(self._asked, widths)
            self._asked = None
        else:
            self._add(widths)

    def _learn(self, raw: optuna.Trial, widths: Widths) -> None:
        value = self._values[widths]
        if self._learns_raw and value is not None:
            self._study.tell(raw, value)
        else:
            self._study.tell(raw, state=optuna.trial.TrialState.FAIL)
            self._add(widths)

    def _add(self, widths: Widths) -> None:
        value = self._values[widths]
        if value is not None:
            params = parameters(self.problem.space, widths)
            self._study.add_trial(
                optuna.create_trial(params=params, distributions=self._distributions, value=value)
            )


def warm_starts(problem: SearchProblem) -> list[Widths]:
    """Return the candidates that are known before any search."""
    uniform = problem.projection.project(np.ones(len(problem.space)))
    if any(ranking.errors is None for ranking in problem.rankings):
        return [uniform]
    return [uniform, least_error(problem)]


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

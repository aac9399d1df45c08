"""Scorers: what turns a network into scores."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import nn

from autoprune.core.plugins import load_object
from autoprune.errors import EvaluateError, UsageError, type_of, user_code
from autoprune.evaluation.early_stopping import Incumbent
from autoprune.evaluation.measurement import Scores, number_in
from autoprune.evaluation.sample_scores import SampleScores
from autoprune.structure.groups import Structure
from autoprune.structure.output_distance import Distance
from autoprune.structure.surgery import deep_copy

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Scorer(ABC):
    """Scores networks in comparison with one dense network.

    Attributes:
        dense: scores of the dense network.
    """

    dense: Scores

    def prepare(self, model: nn.Module, structure: Structure) -> nn.Module:
        """Return the network that is scored in place of a network, here the same.

        Args:
            model: the network; it is not changed.
            structure: structure of the dense network.
        """
        return model

    @abstractmethod
    def score(self, model: nn.Module) -> Scores:
        """Return the scores of a network in evaluation mode."""

    def score_near(self, model: nn.Module, base: Callable[[], nn.Module]) -> Scores:
        """Score a network that may share its first layers with another one; here, without reuse.

        Args:
            model: as for `score`.
            base: returns that other network, the same object as long as the network is the same.
        """
        return self.score(model)

    def score_as(self, model: nn.Module, key: Hashable) -> Scores:
        """Score a network that may become the incumbent; its scores are cached under a key."""
        return self.score(model)

    def by_sample(self, key: Hashable) -> SampleScores | None:
        """Return the cached scores of a network; None if there are none."""
        return None

    def remember(self, key: Hashable, scores: SampleScores) -> None:  # noqa: B027 - nothing to do
        """Cache the scores of a network that was scored elsewhere, on the same samples."""

    def score_against(self, model: nn.Module, key: Hashable, incumbent: Incumbent) -> Scores:
        """Score a network, stopping early if it is surely worse than another; here, never.

        Args:
            model: as for `score`.
            key: key under which its scores are cached, should it become the incumbent.
            incumbent: the network to compare with.
        """
        return self.score(model)


class CustomScorer(Scorer):
    """Scores networks with the user's `evaluate(model) -> score`; higher is better.

    The function receives a copy of the network and may do anything with it: train it, leave it in
    training mode, convert it, register hooks.
    """

    def __init__(self, dense: nn.Module, evaluate: Callable[[nn.Module], float]) -> None:
        """Score the dense network.

        Raises:
            EvaluateError: the function raises.
            UsageError: it returns no finite number.
        """
        self._evaluate = evaluate
        self.dense = self.score(dense)
        if not math.isfinite(self.dense.custom or 0.0):
            raise UsageError(
                "evaluate(model) must return a finite number for the dense network, but it "
                f"returned {self.dense.custom}."
            )

    def score(self, model: nn.Module) -> Scores:
        """Return the score from the user's function.

        Raises:
            EvaluateError: the function raises, or does not return a number.
        """
        given = deep_copy(model)
        with user_code(_evaluate_failed), torch.enable_grad():
            answer = self._evaluate(given)
        value = number_in(answer)
        if value is None:
            raise EvaluateError(
                f"evaluate(model) must return a number, but it returned {type_of(answer)}."
            )
        return Scores(custom=value)


def find_evaluate(
    wanted: Callable[[nn.Module], float] | str | None,
) -> Callable[[nn.Module], float] | None:
    """Return the user's own score that is meant; None where none is.

    Raises:
        UsageError: there is no such function, or it cannot be called.
    """
    return _function(wanted, "evaluate")


def find_distance(wanted: Distance | str | None) -> Distance | None:
    """Return the user's own distance of outputs that is meant; None where none is.

    Raises:
        UsageError: there is no such function, or it cannot be called.
    """
    return _function(wanted, "distance")


def _function(wanted: _Function | str | None, option: str) -> _Function | None:
    """Return the function that an option means.

    Args:
        wanted: the function, `path/to/file.py:function`, `package.module:function`, or None.
        option: its name.

    Raises:
        UsageError: there is no such function, or it cannot be called.
    """
    if not isinstance(wanted, str):
        if wanted is not None and not callable(wanted):
            raise UsageError(
                f"{option} must be a function or the name of one, but got {type_of(wanted)}."
            )
        return wanted
    found: Any = load_object(wanted, option)
    if not callable(found):
        raise UsageError(
            f"{option} {wanted!r} names no function: {type(found).__name__} is not callable."
        )
    function: _Function = found
    return function


def _evaluate_failed(reason: str) -> EvaluateError:
    return EvaluateError(f"evaluate(model) raised {reason}")

"""Scores from the user's own function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import EvaluateError, UsageError
from autoprune.evaluation.scoring import CustomScorer


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()


def test_custom_scores_need_no_samples(model: nn.Module) -> None:
    def evaluate(network: nn.Module) -> Tensor:
        assert torch.is_grad_enabled() and not network.training
        return network(torch.ones(1, 3, 2, 2)).sum() * 0 + 0.25

    scorer = CustomScorer(model, evaluate)  # type: ignore[arg-type]
    assert scorer.dense == scorer.score(model)
    assert scorer.dense.custom == scorer.dense.metric == 0.25 and scorer.dense.kl is None


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_the_dense_network_needs_a_finite_score(model: nn.Module, score: float) -> None:
    with pytest.raises(UsageError, match="must return a finite number for the dense network"):
        CustomScorer(model, lambda network: score)


def test_what_is_no_number_is_refused(model: nn.Module) -> None:
    answer: Any
    for answer in (None, "0.9", torch.zeros(2)):
        with pytest.raises(EvaluateError, match="must return a number, but it returned"):
            CustomScorer(model, lambda network, answer=answer: answer)


def test_whatever_the_function_raises_is_one_line(model: nn.Module) -> None:
    def evaluate(network: nn.Module) -> float:
        raise ValueError("no\nimages")

    with pytest.raises(EvaluateError, match=r"evaluate\(model\) raised ValueError: no") as caught:
        CustomScorer(model, evaluate)
    assert "\n" not in str(caught.value)

"""Scores sample by sample, and their estimate from the first samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from autoprune.evaluation.sample_scores import SampleScores, expected_means


def noisy(mean: float, count: int = 400, seed: int = 0) -> Tensor:
    """Differences of a candidate: a mean and a spread of one."""
    noise = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    return mean + (noise - noise.mean()) / noise.std()


def test_estimate_from_the_first_samples_by_hand() -> None:
    theirs = torch.tensor([[1.0, 2.0, 3.0, 6.0], [3.0, 3.0, 0.0, 0.0], [3.0, 3.0, 0.0, 0.0]])
    # 1 and 2 above the first two of mean 3; 3 and 3 below the first two of mean 1.5.
    own = torch.tensor([[2.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    assert expected_means(own, theirs).tolist() == pytest.approx([3 + 1.5, 0.0, 0.0])


def test_softened_kl_by_hand() -> None:
    """At temperature 4, logits 4 ln 3 apart are odds of three to one; times 16."""
    dense, other = torch.tensor([[4 * math.log(3), 0.0]]), torch.tensor([[0.0, 0.0]])
    found = SampleScores.of(dense, other, None).mean()
    assert found.soft_kl == pytest.approx(
        16 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)), rel=1e-5
    )
    assert found.kl == pytest.approx(81 / 82 * math.log(2 * 81 / 82) + math.log(2 / 82) / 82)


def test_first_samples_without_labels_say_nothing_about_them() -> None:
    nan = torch.nan
    kl = [1.0, 2.0, 3.0, 6.0]
    theirs = torch.tensor([kl, kl, [nan, nan, 2.0, 4.0], [nan, nan, 0.0, 1.0]])
    own = SampleScores(torch.tensor([[2.0, 4.0], [1.0, 2.0], [nan, nan], [nan, nan]]))
    found = own.with_control(SampleScores(theirs))
    assert (found.kl, found.soft_kl, found.loss, found.top1) == (4.5, 3.0, 3.0, 0.5)


def test_estimate_from_all_samples_is_the_mean() -> None:
    own, theirs = noisy(5.0, seed=1), noisy(4.0, seed=2)
    found = expected_means(own.expand(2, -1), theirs.expand(2, -1))[0]
    assert float(found) == pytest.approx(float(own.mean()), rel=1e-6)

"""When the scoring of a candidate stops early."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.evaluation.classification import ClassificationScorer
from autoprune.evaluation.early_stopping import CHECKPOINTS, MIN_SAMPLES, score_until_worse
from autoprune.evaluation.parallel_forward import CPU_BATCH
from autoprune.evaluation.sample_scores import SampleScores


def batches_of(kl: Tensor, size: int, taken: list[int]) -> Iterator[SampleScores]:
    for part in kl.split(size):
        taken.append(len(part))
        yield scores_of(part)


def scores_of(kl: Tensor) -> SampleScores:
    """Samples whose plain KL is zero: only the softened one decides."""
    return SampleScores(torch.stack([torch.zeros_like(kl), kl]))


def noisy(mean: float, count: int = 400, seed: int = 0) -> Tensor:
    """Differences of a candidate: a mean and a spread of one."""
    noise = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    return mean + (noise - noise.mean()) / noise.std()


def test_a_much_worse_candidate_stops_at_the_first_checkpoint() -> None:
    incumbent, taken = 10 + noisy(0.0), list[int]()
    # Worse by one standard deviation: seven standard errors of 50 samples.
    found = score_until_worse(
        batches_of(incumbent + noisy(1.0, seed=1), 50, taken), scores_of(incumbent)
    )
    assert len(found) == 50 == CHECKPOINTS[0] * len(incumbent)
    assert taken == [50]


def test_a_slightly_worse_candidate_is_scored_on_all_samples() -> None:
    incumbent, taken = 10 + noisy(0.0), list[int]()
    # Worse by 0.02 standard deviations: far from certain after 200 samples.
    own = incumbent + noisy(0.02, seed=1)
    assert len(score_until_worse(batches_of(own, 50, taken), scores_of(incumbent))) == 400
    assert sum(taken) == 400


def test_a_later_checkpoint_can_stop_what_earlier_ones_let_pass() -> None:
    incumbent = 10 + noisy(0.0)
    own = incumbent + torch.cat([noisy(0.0, 100, 1), noisy(1.0, 300, 2)])
    assert len(score_until_worse(batches_of(own, 50, []), scores_of(incumbent))) == 200


def test_few_samples_never_stop_a_candidate() -> None:
    count = int(MIN_SAMPLES / max(CHECKPOINTS)) - 2
    incumbent = scores_of(torch.zeros(count))
    assert len(score_until_worse(batches_of(noisy(9.0, count), 5, []), incumbent)) == count


@given(st.integers(0, 10**6), st.floats(0.0, 2.0))
def test_a_candidate_that_is_never_worse_is_never_stopped(seed: int, margin: float) -> None:
    incumbent = 10 + noisy(0.0, seed=seed)
    better = incumbent - margin * torch.rand(400, generator=torch.Generator().manual_seed(seed))
    assert len(score_until_worse(batches_of(better, 50, []), scores_of(incumbent))) == 400


class TestScorer:
    @pytest.fixture
    def samples(self) -> Samples:
        torch.manual_seed(0)
        return Samples(torch.randn(4 * CPU_BATCH, 6), torch.randint(0, 5, (4 * CPU_BATCH,)))

    def near(self, dense: nn.Linear, change: float) -> nn.Linear:
        torch.manual_seed(1)
        other = nn.Linear(6, 5).eval()
        with torch.no_grad():
            other.weight.copy_(dense.weight + change * torch.randn(5, 6))
            other.bias.copy_(dense.bias)
        return other

    def test_a_stopped_network_is_estimated_and_a_better_one_exact(self, samples: Samples) -> None:
        dense = nn.Linear(6, 5).eval()
        scorer = ClassificationScorer(dense, samples)
        built: list[str] = []

        def incumbent() -> nn.Module:
            built.append("incumbent")
            return self.near(dense, 0.3)

        worse, better = self.near(dense, 3.0), self.near(dense, 0.2)
        stopped = scorer.score_against(worse, "worse", ("incumbent", incumbent))
        exact = scorer.score(worse)
        assert MIN_SAMPLES <= stopped.samples <= len(samples) / 2 and exact.samples == len(samples)
        assert stopped.kl == pytest.approx(exact.kl, rel=0.2)
        assert stopped.top1 == pytest.approx(exact.top1, abs=0.1)
        assert scorer.score_against(better, "better", ("incumbent", incumbent)) == scorer.score(
            better
        )
        # Both are cached: neither is built again.
        again = scorer.score_against(worse, "worse", ("better", pytest.fail))
        assert again.samples == stopped.samples and built == ["incumbent"]
        full = scorer.score_against(better, "better", ("incumbent", pytest.fail))
        assert full.samples == len(samples)

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.evaluation.early_stopping import LEAST, LOOKS, SampleScores, expected_means, race
from autoprune.evaluation.parallel_forward import CPU_BATCH
from autoprune.evaluation.scoring import ClassificationScorer


def batches_of(kl: Tensor, size: int, taken: list[int]) -> Iterator[SampleScores]:
    for part in kl.split(size):
        taken.append(len(part))
        yield scores_of(part)


def scores_of(kl: Tensor) -> SampleScores:
    """Samples whose plain KL says nothing: it is the softened one that races."""
    return SampleScores(torch.stack([torch.zeros_like(kl), kl]))


def noisy(mean: float, count: int = 400, seed: int = 0) -> Tensor:
    """Differences of a candidate: a mean and a spread of one."""
    noise = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    return mean + (noise - noise.mean()) / noise.std()


def test_estimate_beside_a_rival_by_hand() -> None:
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
    found = own.beside(SampleScores(theirs))
    assert (found.kl, found.soft_kl, found.loss, found.top1) == (4.5, 3.0, 3.0, 0.5)


def test_estimate_from_all_samples_is_the_mean() -> None:
    own, theirs = noisy(5.0, seed=1), noisy(4.0, seed=2)
    found = expected_means(own.expand(2, -1), theirs.expand(2, -1))[0]
    assert float(found) == pytest.approx(float(own.mean()), rel=1e-6)


def test_what_is_far_behind_is_dropped_at_the_first_look() -> None:
    rival, taken = 10 + noisy(0.0), list[int]()
    # Behind by one standard deviation: seven standard errors of 50 samples.
    found = race(batches_of(rival + noisy(1.0, seed=1), 50, taken), scores_of(rival))
    assert len(found) == 50 == LOOKS[0] * len(rival)
    assert taken == [50]


def test_what_is_a_little_behind_is_scored_on_all() -> None:
    rival, taken = 10 + noisy(0.0), list[int]()
    # Behind by 0.02 standard deviations: far from certain after 200 samples.
    own = rival + noisy(0.02, seed=1)
    assert len(race(batches_of(own, 50, taken), scores_of(rival))) == 400
    assert sum(taken) == 400


def test_a_later_look_sees_what_earlier_ones_could_not() -> None:
    rival = 10 + noisy(0.0)
    own = rival + torch.cat([noisy(0.0, 100, 1), noisy(1.0, 300, 2)])
    assert len(race(batches_of(own, 50, []), scores_of(rival))) == 200


def test_few_samples_are_no_reason_to_drop() -> None:
    count = int(LEAST / max(LOOKS)) - 2
    rival = scores_of(torch.zeros(count))
    assert len(race(batches_of(noisy(9.0, count), 5, []), rival)) == count


@given(st.integers(0, 10**6), st.floats(0.0, 2.0))
def test_who_is_nowhere_worse_is_never_dropped(seed: int, margin: float) -> None:
    rival = 10 + noisy(0.0, seed=seed)
    better = rival - margin * torch.rand(400, generator=torch.Generator().manual_seed(seed))
    assert len(race(batches_of(better, 50, []), scores_of(rival))) == 400


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

    def test_a_dropped_network_is_estimated_and_a_good_one_exact(self, samples: Samples) -> None:
        dense = nn.Linear(6, 5).eval()
        scorer = ClassificationScorer(dense, samples)
        asked: list[str] = []

        def rival() -> nn.Module:
            asked.append("rival")
            return self.near(dense, 0.3)

        worse, better = self.near(dense, 3.0), self.near(dense, 0.2)
        dropped = scorer.score_against(worse, "worse", ("rival", rival))
        exact = scorer.score(worse)
        assert LEAST <= dropped.samples <= len(samples) / 2 and exact.samples == len(samples)
        assert dropped.kl == pytest.approx(exact.kl, rel=0.2)
        assert dropped.top1 == pytest.approx(exact.top1, abs=0.1)
        assert scorer.score_against(better, "better", ("rival", rival)) == scorer.score(better)
        # Both are remembered: nobody is asked for them again.
        again = scorer.score_against(worse, "worse", ("better", pytest.fail))
        assert again.samples == dropped.samples and asked == ["rival"]
        full = scorer.score_against(better, "better", ("rival", pytest.fail))
        assert full.samples == len(samples)

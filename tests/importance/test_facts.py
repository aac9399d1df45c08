"""Small cases whose answers are worked out by hand."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.importance import Ranking, make_importance
from autoprune.importance.activity import least_separation
from autoprune.importance.consumer_inputs import contributions, error_curve
from autoprune.importance.selection import mean_damage
from autoprune.importance.taylor import FLOPS_WEIGHT
from autoprune.reconstruction.refit import LeastSquares
from autoprune.statistics.activations import ClassMoments
from autoprune.statistics.moments import Moments
from autoprune.statistics.propagation import infinite_selection


def linear(rows: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    weight = torch.tensor(rows)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def identity(size: int) -> nn.Linear:
    return linear(torch.eye(size).tolist())


@pytest.fixture
def rank(evidence_of: Any) -> Any:
    def one(name: str, model: nn.Module, inputs: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        evidence = evidence_of(model, inputs, *args, **kwargs)
        return make_importance(name).rank(evidence.structure.groups[0], evidence)

    return one


# ---------------------------------------------------------------------------------------- weights


def test_norms_differ_where_weights_are_spread(rank: Any) -> None:
    """(3, 4) has l1 norm 7 and l2 norm 5, (5.5, 0) has 5.5 and 5.5."""
    model = nn.Sequential(linear([[3.0, 4.0], [5.5, 0.0]]), identity(2))
    assert rank("l1", model, torch.randn(4, 2)).order == (0, 1)
    assert rank("l2", model, torch.randn(4, 2)).order == (1, 0)


def test_geometric_median_goes_first(rank: Any) -> None:
    """Filters 0, 2, 3, 5, 10 lie 20, 14, 13, 15 and 30 from all others together."""
    model = nn.Sequential(linear([[0.0], [2.0], [3.0], [5.0], [10.0]]), identity(5))
    assert rank("geometric_median", model, torch.randn(4, 1)).order == (4, 0, 3, 1, 2)


def test_random_orders_are_uniform(rank: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))
    first = Counter(rank("random", model, torch.zeros(1, 2), seed=s).order[0] for s in range(400))
    assert sorted(first) == [0, 1, 2, 3]
    assert all(abs(count - 100) < 5 * math.sqrt(400 * 3 / 16) for count in first.values())


def test_coreset_draws_in_proportion_to_the_sensitivity(rank: Any) -> None:
    """‖p‖ 1, 2, 1 and largest outgoing weights 1, 1, 5: shares 1/8, 2/8, 5/8."""
    model = nn.Sequential(
        linear([[1.0, 0.0], [0.0, -2.0], [0.6, 0.8]]),
        nn.ReLU(),
        linear([[1.0, 0.5, 0.1], [0.2, -1.0, -5.0]]),
    )
    draws = 400
    first = Counter(
        rank("coreset", model, torch.zeros(1, 2), seed=seed).order[0] for seed in range(draws)
    )
    for unit, share in enumerate((1 / 8, 2 / 8, 5 / 8)):
        assert abs(first[unit] - draws * share) < 5 * math.sqrt(draws * share * (1 - share))


# ------------------------------------------------------------------------------------ activations


def test_bn_scale_is_the_mean_over_batch_norms(rank: Any) -> None:
    """|γ| 3, 1, 2 behind the convolution and 1, 4, 2 behind the depthwise one: 2, 2.5, 2."""
    first, second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([-3.0, 1.0, 2.0]))
        second.weight.copy_(torch.tensor([1.0, 4.0, 2.0]))
    one = nn.Sequential(nn.Conv2d(3, 3, 1), first, nn.ReLU(), nn.Conv2d(3, 2, 1))
    ranking = rank("bn_scale", one, torch.randn(2, 3, 4, 4))
    assert ranking.order == (0, 2, 1) and ranking.scores == (3.0, 2.0, 1.0)
    depthwise = nn.Conv2d(3, 3, 3, groups=3)
    two = nn.Sequential(nn.Conv2d(3, 3, 1), first, depthwise, second, nn.Conv2d(3, 2, 1))
    ranking = rank("bn_scale", two, torch.randn(2, 3, 4, 4))
    assert ranking.order == (1, 0, 2) and ranking.scores == (2.5, 2.0, 2.0)


def test_bn_scale_without_batch_norm_is_the_deviation(rank: Any) -> None:
    model = nn.Sequential(linear([[1.0], [3.0]], [5.0, 0.0]), identity(2))
    ranking = rank("bn_scale", model, torch.tensor([[-1.0], [1.0]]))
    assert ranking.order == (1, 0) and ranking.scores == pytest.approx((3.0, 1.0))


def test_activity_behind_relu(rank: Any) -> None:
    """Four samples: unit 0 is active on two (mean 5), unit 1 on three (mean 3/4), unit 2 on one."""
    model = nn.Sequential(identity(3), nn.ReLU(), identity(3))
    inputs = torch.tensor([[10.0, 1, -1], [10.0, 1, -1], [-1.0, 1, 8], [-1.0, -9, -1]])
    assert rank("apoz", model, inputs).order == (1, 0, 2)
    assert rank("mean_activation", model, inputs).order == (0, 2, 1)


def test_hellinger_distance_of_gaussians() -> None:
    """Means 0 and 2, variance 1: 1 − e^(−1/2). Variances 1 and 4: 1 − √(4/5). Least pair counts."""
    mean = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [9.0, 9.0, 0.1]])
    variance = torch.tensor([[1.0, 1.0, 1.0], [1.0, 4.0, 1.0], [1.0, 1.0, 1.0]])
    classes = ClassMoments(mean.double(), variance.double())
    found = least_separation(classes, torch.tensor([[0], [1]]))
    assert found.tolist() == pytest.approx([1 - math.exp(-0.5), 1 - math.sqrt(0.8)], rel=1e-6)
    # A unit of two channels: overlaps multiply.
    (both,) = least_separation(
        ClassMoments(mean[:2].double(), variance[:2].double()), torch.tensor([[0, 1]])
    )
    assert float(both) == pytest.approx(1 - math.exp(-0.5) * math.sqrt(0.8), rel=1e-6)


def test_tv_separation_keeps_what_tells_classes_apart(rank: Any) -> None:
    """Unit 0 is loud but alike in all classes, unit 2 tells two of three apart, unit 1 all."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    noise = torch.randn(90, 3, generator=generator)
    levels = torch.stack([torch.zeros(3), torch.tensor([0.0, 4, 8]), torch.tensor([0.0, 9, 9])], 1)
    inputs = noise * torch.tensor([50.0, 1.0, 1.0]) + levels[labels]
    assert rank("tv_separation", nn.Sequential(identity(3), identity(3)), inputs, labels).order[
        0
    ] == (1)


# -------------------------------------------------------------------------------------- gradients


def test_taylor_terms_by_hand(rank: Any, evidence_of: Any) -> None:
    """Logits are equal, p = (½, ½): hⱼ Σᵢ Wᵢⱼ (pᵢ − yᵢ) is ±½ hⱼ (W₀ⱼ − W₁ⱼ) for either label."""
    h = torch.tensor([[1.0, 2.0, 3.0], [2.0, 1.0, 0.5]])
    # Rows such that (W₀ − W₁) · h = 0 for both samples: (W₀ − W₁) ∝ (1, 2, 3) × (2, 1, ½).
    gap = torch.linalg.cross(h[0], h[1])
    model = nn.Sequential(identity(3), linear([gap.tolist(), [0.0, 0.0, 0.0]]))
    ranking = rank("taylor", model, h, torch.tensor([0, 1]))
    terms = (h * gap / 2).abs().mean(0)
    assert ranking.order == tuple(terms.argsort(descending=True).tolist())
    normal = (terms / terms.norm()).sort(descending=True).values
    # Three multiply-accumulates make a unit: six operations.
    expected = normal - FLOPS_WEIGHT * 6e-6
    assert ranking.scores == pytest.approx(expected.tolist(), rel=1e-5)


def test_taylor_adds_what_all_consumers_lose(net: Any, evidence_of: Any) -> None:
    """Two readers whose effects cancel: without a unit the loss stays as it was."""
    model = net(
        lambda m, x: (lambda h: m.b(h) - m.c(h))(m.a(x)),
        a=identity(2),
        b=linear([[1.0, 1.0], [0.0, 0.0]]),
        c=linear([[1.0, -1.0], [0.0, 0.0]]),
    )
    evidence = evidence_of(model, torch.tensor([[1.0, 1.0]]), torch.tensor([1]))
    (terms,) = evidence.taylor.values()
    assert float(terms[0]) == pytest.approx(0.0, abs=1e-7) and float(terms[1]) > 0.1


# ------------------------------------------------------------------------------------ propagation


def test_importance_is_propagated_by_absolute_weights(evidence_of: Any) -> None:
    """|W|ᵀ s through two layers, signs, biases and ReLU regardless; final responses count alike."""
    model = nn.Sequential(
        nn.Linear(2, 3),
        nn.ReLU(),
        linear([[1.0, -2.0, 0.0], [3.0, 1.0, -1.0]], [-100.0, -100.0]),
        nn.ReLU6(),
        linear([[1.0, -4.0]]),
        nn.ReLU(),
        nn.Linear(1, 2),
    )
    evidence = evidence_of(model, torch.randn(5, 2), covariances={})
    assert evidence.propagated["4.weight"].tolist() == [1.0, 4.0]
    assert evidence.propagated["2.weight"].tolist() == [13.0, 6.0, 4.0]


def test_importance_through_a_shortcut(net: Any, evidence_of: Any) -> None:
    """The stream reaches the end directly and through |B|: the block's reader sees |B|ᵀ s alone."""
    model = net(
        lambda m, x: (lambda h: m.out(h + m.b(h)))(m.a(x)),
        a=identity(2),
        b=linear([[0.0, 2.0], [-3.0, 0.0]]),
        out=identity(2),
    )
    evidence = evidence_of(model, torch.randn(5, 2), covariances={})
    assert evidence.propagated["b.weight"].tolist() == [3.0, 2.0]
    assert evidence.propagated["a.weight"].tolist() == [4.0, 3.0]


def test_infinite_selection_is_the_sum_over_all_paths() -> None:
    covariance = torch.tensor([[4.0, 1.0], [1.0, 1.0]]).double()
    found = infinite_selection(Moments(9, torch.zeros(2).double(), covariance), 2)
    # max(σ) / σ_max is 1, 1, ½; correlation is ½.
    weights = 0.5 * np.array([[1.0, 1.0], [1.0, 0.5]]) + 0.5 * np.array([[0.0, 0.5], [0.5, 0.0]])
    step = 0.9 / np.linalg.eigvalsh(weights).max() * weights
    paths = sum(np.linalg.matrix_power(step, k) for k in range(1, 400))
    expected = paths.sum(1) / paths.sum()
    assert found.tolist() == pytest.approx(expected.tolist())


# -------------------------------------------------------------------------------------- selection

READER = "1.weight"


def test_contributions_by_hand(evidence_of: Any) -> None:
    """z = w x with w = (3, 1), var 1 and 4, cov 1: E⟨z, z⟩ = [[9, 3], [3, 4]], energy 19."""
    model = nn.Sequential(identity(2), linear([[3.0, 1.0], [0.0, 0.0]]))
    covariance = torch.tensor([[1.0, 1.0], [1.0, 4.0]])
    evidence = evidence_of(model, torch.randn(2, 2), covariances={READER: covariance})
    parts = contributions(evidence.structure.groups[0], evidence)
    assert (parts.between * 19).flatten().tolist() == pytest.approx([9, 3, 3, 4])
    assert (parts.target * 19).tolist() == pytest.approx([12, 7])
    assert parts.weights.square().tolist() == pytest.approx([0.9, 0.1])


def test_lasso_of_independent_inputs_enters_by_weight_times_variance(rank: Any) -> None:
    """w = 3, 1, 2 and variances 1, 4, ½: w v = 3, 4, 1, although w² v = 9, 4, 2."""
    model = nn.Sequential(identity(3), linear([[3.0, 1.0, 2.0]]))
    known = {READER: torch.diag(torch.tensor([1.0, 4.0, 0.5]))}
    assert rank("lasso", model, torch.randn(2, 3), covariances=known).order == (1, 0, 2)


def test_lasso_leaves_duplicates_out(rank: Any) -> None:
    """Unit 1 is 0.9 of unit 0 and nothing beside it; the far weaker unit 2 enters first."""
    model = nn.Sequential(identity(3), linear([[1.0, 1.0, 0.5]]))
    known = torch.tensor([[1.0, 0.9, 0.0], [0.9, 0.81, 0.0], [0.0, 0.0, 1.0]])
    order = rank("lasso", model, torch.randn(2, 3), covariances={READER: known}).order
    assert order == (0, 2, 1)


def test_thinet_removes_what_cancels(rank: Any) -> None:
    """Unit 2 goes first (½); with it, unit 1 costs 1.2 − 0.8, less than unit 0 alone (1)."""
    model = nn.Sequential(identity(3), linear([[1.0, 1.0, 1.0]]))
    known = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.2, -0.4], [0.0, -0.4, 0.5]])
    assert rank("thinet", model, torch.randn(2, 3), covariances={READER: known}).order == (0, 1, 2)


def test_aofp_damage_by_hand() -> None:
    between = torch.tensor([[2.0, -0.5, 0.0], [-0.5, 1.0, 0.0], [0.0, 0.0, 3.0]]).double()
    generator = torch.Generator().manual_seed(0)
    alone = mean_damage(between, torch.tensor([0]), torch.tensor([1]), generator)
    assert alone.tolist() == pytest.approx([2.0 - 2 * 0.5])
    # One of two is masked at a time: what both lose by the other's company adds up to 2 (−½).
    pair = mean_damage(between, torch.tensor([0, 1]), torch.tensor([]).long(), generator)
    assert float(pair.sum()) == pytest.approx(2.0 + 1.0 - 2 * 0.5)
    everyone = mean_damage(between, torch.arange(3), torch.tensor([]).long(), generator)
    assert float(everyone[2]) == pytest.approx(3.0)


def test_aofp_of_independent_units_is_the_oracle(rank: Any) -> None:
    model = nn.Sequential(identity(5), linear([[1.0, 5.0, 3.0, 2.0, 4.0]]))
    known = {READER: torch.eye(5)}
    order = rank("aofp", model, torch.randn(2, 5), covariances=known).order
    assert order == (1, 4, 2, 3, 0)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_error_curve_is_the_refits_error(order: tuple[int, ...], evidence_of: Any) -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5))
    evidence = evidence_of(model, torch.randn(300, 6))
    curve = error_curve(evidence.structure.groups[0], evidence, order)
    moments, weight = evidence.moments["2.weight"], model[2].weight.detach().double()
    energy = float(((weight @ moments.covariance) * weight).sum())
    for width in range(1, 5):
        kept = torch.tensor(sorted(order[:width]))
        lost = weight.clone()
        lost[:, kept] -= LeastSquares(model[2].weight, moments).refit(kept).weight.double()
        error = float(((lost @ moments.covariance) * lost).sum()) / energy
        assert curve[width] == pytest.approx(error, abs=1e-6)
    assert curve[0] == pytest.approx(1.0)


def test_not_a_number_counts_as_least() -> None:
    ranking = Ranking.by(torch.tensor([1.0, math.nan, 2.0, -math.inf]))
    assert ranking.order == (2, 0, 1, 3)

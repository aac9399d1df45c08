from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from autoprune.data import Samples
from autoprune.errors import UsageError
from autoprune.reconstruction.batchnorm import reestimate_batchnorm
from autoprune.sparsity.choices import CRITERIA
from autoprune.sparsity.criteria import (
    Wanted,
    by_magnitude,
    by_snip,
    by_surgeon,
    find_criterion,
    take_better_statistics,
)
from autoprune.sparsity.obs import DAMPING, by_columns, in_rounds, with_zeros
from autoprune.sparsity.patterns import Blocks, FewOfEvery, find_pattern
from autoprune.structure.surgery import deep_copy
from autoprune.structure.tracing.trace import trace
from autoprune.testing import small_networks
from autoprune.testing.small_networks import IMAGES, LABELS, randomized


@pytest.fixture
def network() -> nn.Module:
    return randomized(small_networks.plain()).eval()


def wanted(network: nn.Module, pattern: str = "unstructured", amount: float = 0.5) -> Wanted:
    samples = Samples(IMAGES, LABELS)
    return Wanted(trace(network, IMAGES[:2]), find_pattern(pattern), amount, samples)


def damped(moments: torch.Tensor) -> torch.Tensor:
    return moments + DAMPING * moments.diagonal().mean() * torch.eye(len(moments))


def test_one_weight_goes_as_optimal_brain_surgeon_says() -> None:
    """q = argmin w²/[H⁻¹]_qq for the first column; δw = −w_q H⁻¹_:q / [H⁻¹]_qq."""
    inputs = torch.randn(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inputs[:, 1] += 2 * inputs[:, 0]
    moments = inputs.T @ inputs / 50
    weights = torch.tensor([[0.01, 1.0, 2.0]])
    inverse = torch.linalg.inv(damped(moments))
    expected = weights.double() - weights[0, 0] * inverse[0] / inverse[0, 0]
    for remove in (in_rounds, by_columns):
        found = remove(weights.double(), damped(moments), Blocks(), 1 / 3)
        assert torch.allclose(found, expected, atol=1e-9) and found[0, 0] == 0


def test_a_twin_takes_over() -> None:
    """Where two inputs are equal, the one that stays gets both weights."""
    inputs = torch.randn(80, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inputs[:, 1] = inputs[:, 0]
    weights = torch.tensor([[0.1, 1.0, 3.0, 3.0]])
    found = with_zeros(weights, inputs.T @ inputs / 80, Blocks(), 0.25)
    assert found[0, 0] == 0
    assert torch.allclose(found[0, 1:], torch.tensor([1.1, 3.0, 3.0]).double(), atol=0.02)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "2x1", "1x2"])
def test_others_make_up_for_zeros(pattern: str) -> None:
    """Outputs are nearer than with the smallest weights gone, with as many zeros."""
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(16, 16, generator=generator).double()
    inputs = torch.randn(500, 16, generator=generator).double() @ mixing
    weights = torch.randn(8, 16, generator=generator)
    kind = find_pattern(pattern)
    moments = damped(inputs.T @ inputs / 500)
    found = in_rounds(weights.double(), moments, kind, 0.5)
    plain = (weights * kind.kept(weights.abs(), 0.5)).double()
    assert int((found == 0).sum()) == int((plain == 0).sum()) == 64
    error, other = ((inputs @ (one - weights).T).square().mean() for one in (found, plain))
    assert error < 0.7 * other
    columns = by_columns(weights.double(), moments, kind, 0.5)
    assert int((columns == 0).sum()) == 64
    # Given which weights stay, none but these would be nearer.
    change = (found - weights) @ moments
    assert torch.allclose(change[found != 0], torch.zeros(64).double(), atol=1e-8)


def test_silent_inputs_lose_their_weights() -> None:
    moments = torch.diag(torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64))
    found = with_zeros(torch.tensor([[1.0, 9.0, 3.0, 2.0]]), moments, FewOfEvery(2, 4), 0.5)
    assert torch.allclose(found, torch.tensor([[0.0, 0.0, 3.0, 2.0]]).double())


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_as_many_zeros_as_wanted(name: str, pattern: str, network: nn.Module) -> None:
    goal = wanted(network, pattern)
    before, weights = deep_copy(network), goal.weights(network)
    find_criterion(name)(network, goal)
    zeros = [int((own.weight == 0).sum()) for own in weights.values()]
    sizes = [own.weight.numel() for own in weights.values()]
    assert sum(zeros) == round(sum(sizes) / 2)
    if name != "snip":
        assert zeros == [round(size / 2) for size in sizes]
    rest = {n: one for n, one in before.named_parameters() if n not in weights}
    assert all(torch.equal(network.get_parameter(n), one) for n, one in rest.items())


def test_magnitudes_by_hand(network: nn.Module) -> None:
    weight = network.get_parameter("0.0.weight")
    with torch.no_grad():
        weight[0, 0, 0, 0] = 1e-9
        weight[1, 0, 0, 0] = 9.0
    by_magnitude(network, wanted(network, amount=0.1))
    assert weight[0, 0, 0, 0] == 0 and weight[1, 0, 0, 0] == 9


def test_sensitivity_is_of_all_layers(network: nn.Module) -> None:
    """|w ∂L/∂w|, by autograd at once; the least of all layers together go."""
    copy = deep_copy(network)
    loss = nn.functional.cross_entropy(copy(IMAGES), LABELS, reduction="sum")
    goal = wanted(network, amount=0.3)
    names = list(goal.weights(network))
    tensors = [copy.get_parameter(name) for name in names]
    slopes = torch.autograd.grad(loss, tensors)
    scores = torch.cat(
        [(w * slope).abs().flatten() for w, slope in zip(tensors, slopes, strict=True)]
    )
    by_snip(network, goal)
    zeros = torch.cat([network.get_parameter(name).detach().flatten() == 0 for name in names])
    assert scores[zeros].max() <= scores[~zeros].min() * (1 + 1e-4)


def test_sensitivity_needs_labels(network: nn.Module) -> None:
    with pytest.raises(UsageError, match="'snip' needs labelled samples"):
        by_snip(network, replace(wanted(network), samples=Samples(IMAGES, None)))


def test_what_is_grouped_or_transposed_loses_its_smallest() -> None:
    network = randomized(small_networks.transposed()).eval()
    goal, plain = wanted(network), deep_copy(network)
    by_magnitude(plain, goal)
    by_surgeon(network, goal)
    turned = [n for n, own in goal.weights(network).items() if own.layer.is_transposed]
    assert turned
    for name in turned:
        assert torch.equal(network.get_parameter(name), plain.get_parameter(name))


def test_statistics_behind_zeros_are_kept_where_they_help(network: nn.Module) -> None:
    reestimate_batchnorm(network, Samples(IMAGES, None))
    goal = wanted(network)
    wrong, right = deep_copy(network), deep_copy(network)
    wrong.get_buffer("0.1.running_var").mul_(50)
    take_better_statistics(wrong, network, goal)
    take_better_statistics(right, network, goal)
    assert wrong.get_buffer("0.1.running_var").max() < 20
    assert torch.equal(right.get_buffer("0.1.running_var"), network.get_buffer("0.1.running_var"))


def test_statistics_that_keep_their_values(network: nn.Module) -> None:
    reestimate_batchnorm(network, Samples(IMAGES, None))
    goal, wrong = wanted(network), deep_copy(network)
    wrong.get_buffer("0.1.running_var").mul_(50)
    before = wrong.get_buffer("0.1.running_var").clone()
    names = frozenset({"0.1.running_mean", "0.1.running_var"})
    take_better_statistics(wrong, network, replace(goal, structure=goal.structure.leaving(names)))
    assert torch.equal(wrong.get_buffer("0.1.running_var"), before)


def test_outputs_that_cannot_be_compared() -> None:
    """As many boxes as there are positive answers: another number for each network."""

    class Boxes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = randomized(small_networks.plain())

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            answers = self.body(images)
            return answers[answers > 0]

    dense, network = Boxes().eval(), Boxes().eval()
    with torch.no_grad():
        network.body[-1][-1].bias.add_(0.5)
    before = network.state_dict()["body.0.1.running_var"].clone()
    samples = Samples(IMAGES, None)
    goal = Wanted(trace(dense.body, IMAGES[:2]), Blocks(), 0.5, samples)
    take_better_statistics(network, dense, goal)
    assert torch.equal(network.state_dict()["body.0.1.running_var"], before)


def test_one_sided_padding_is_no_patch() -> None:
    """An even kernel with padding="same" pads one side more: its smallest weights go."""
    even = nn.Conv2d(3, 8, 4, padding="same")
    network = nn.Sequential(even, nn.ReLU(), *small_networks.plain()[1:]).eval()
    goal = wanted(network)
    expected = goal.pattern.kept(goal.weights(network)["0.weight"].matrix.abs(), 0.5)
    by_surgeon(network, goal)
    assert torch.equal(goal.weights(network)["0.weight"].matrix != 0, expected)

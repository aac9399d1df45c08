"""One step of every method, computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from autoprune.errors import UsageError
from autoprune.methods.agp import GradualPruning
from autoprune.methods.autopruner import AutoPruner, pooled
from autoprune.methods.c_sgd import CentripetalSgd, cluster_means, clusters
from autoprune.methods.dcp import DiscriminationAwarePruning
from autoprune.methods.gdp import GlobalDynamicPruning
from autoprune.methods.greg import GrowingRegularization
from autoprune.methods.group_lasso import GroupLasso
from autoprune.methods.ista import Ista, channel_cost
from autoprune.methods.iterative import IterativePruning
from autoprune.methods.lc import LearningCompression
from autoprune.methods.resrep import ResRep, row_gradient
from autoprune.methods.segments import segments
from autoprune.methods.sfp import SoftFilterPruning
from autoprune.methods.sss import SparseStructureSelectionConfig, accelerated_step
from autoprune.structure.surgery import deep_copy
from autoprune.testing.method_contract import Setup, difference, moment
from autoprune.testing.small_networks import (
    IMAGES,
    LABELS,
    plain,
    randomized,
    without_batchnorm,
)


@pytest.fixture
def setup() -> Setup:
    """A chain: groups of 8 and 7 channels, each made by one convolution with a BN."""
    return Setup.of(randomized(plain()))


def test_group_lasso_is_the_sum_of_norms(setup: Setup) -> None:
    """λ_n over rows of both convolutions, λ_c over columns of what reads them."""
    method = GroupLasso(filters=0.1, channels=0.2).prepared(setup.goal)
    first, second, last = (
        setup.network.get_parameter(name) for name in ("0.0.weight", "1.0.weight", "2.2.weight")
    )
    rows = sum(one.flatten(1).norm(dim=1).sum() for one in (first, second))
    columns = second.transpose(0, 1).flatten(1).norm(dim=1).sum() + last.norm(dim=0).sum()
    expected = 0.1 * rows + 0.2 * columns
    penalty = method.loss(setup.network)
    assert penalty is not None and torch.allclose(penalty, expected)
    penalty.backward()
    assert first.grad is not None
    assert torch.allclose(first.grad[0], 0.1 * first[0] / first[0].norm())


def test_group_lasso_scores_the_smaller_of_both(setup: Setup) -> None:
    method = GroupLasso(filters=0.1).prepared(setup.goal)
    rows = setup.network.get_parameter("0.0.weight").detach().double().flatten(1)
    columns = setup.network.get_parameter("1.0.weight").detach().double().transpose(0, 1).flatten(1)
    expected = torch.minimum(rows.abs().mean(1), columns.abs().mean(1))
    assert torch.allclose(method.scores(setup.network)[0], expected)
    with pytest.raises(UsageError, match="filters or channels above 0"):
        GroupLasso(channels=0.0).prepared(setup.goal)


def test_soft_pruning_clears_the_smallest_filters(setup: Setup) -> None:
    goal = replace(setup.goal, widths=(6, 7))
    weight = setup.network.get_parameter("0.0.weight")
    method = SoftFilterPruning().prepared(goal)
    method.start(setup.network)
    with torch.no_grad():
        weight[2], weight[5] = weight[2] * 0.1, weight[5] * 0.2
        before = weight.clone()
        method.after_epoch(setup.network, moment(2))
    gone = [unit for unit in range(8) if not weight[unit].any()]
    assert gone == [2, 5] and torch.equal(weight[0], before[0])


def test_filters_that_were_cleared_come_back_no_faster_than_the_others(setup: Setup) -> None:
    """Gradients of norm 1 and 3 that stayed: a cleared filter's is at most 2, the others' any."""
    method = SoftFilterPruning().prepared(replace(setup.goal, widths=(2, 7)))
    weight = setup.network.get_parameter("0.0.weight")
    method.start(setup.network)
    with torch.no_grad():
        weight[:2] *= 100
        method.after_epoch(setup.network, moment(2))
        given = torch.zeros_like(weight)
        given.flatten(1)[:4, 0] = torch.tensor([1.0, 3.0, 50.0, 0.5])
        weight.grad = given.clone()
        method.after_backward(setup.network, moment(3))
    assert weight.grad.flatten(1)[:, 0].tolist() == pytest.approx([1, 3, 2, 0.5, 0, 0, 0, 0])
    assert not weight.grad.flatten(1)[:, 1:].any()


def test_the_cubic_schedule() -> None:
    """s_t = s_f + (s_i − s_f)(1 − t)³ with s_i = .2 s_f: at t = 1/2 .9 s_f."""
    method = GradualPruning(initial=0.2, end=0.5, removals=4)
    assert [method.level(one) for one in (0.0, 0.124, 0.125, 0.25, 0.5, 0.9)] == [1, 1, 2, 3, 5, 5]
    assert [method.removed(level) for level in (1, 3, 5)] == pytest.approx([0.2, 0.9, 1.0])


def test_masks_of_a_schedule_stay(setup: Setup) -> None:
    """Half of what goes, then all; what is gone stays zero whatever the optimizer does."""
    method = IterativePruning(rounds=2).prepared(replace(setup.goal, widths=(4, 7)))
    weight = setup.network.get_parameter("0.0.weight")
    method.start(setup.network)
    left = []
    with torch.no_grad():
        for completed in (0.0, 0.4, 0.5, 0.99):
            method.after_step(setup.network, moment(completed=completed))
            left.append(int(weight.flatten(1).any(1).sum()))
            weight += 0.01  # a step of the optimizer
        method.after_step(setup.network, moment(completed=1.0))
    assert left == [6, 6, 4, 4] and int(weight.flatten(1).any(1).sum()) == 4


def test_growing_regularization(setup: Setup) -> None:
    """Half up the ramp half of the ceiling times W is added for what goes, nothing for others."""
    method = GrowingRegularization(ceiling=0.8, ramp=0.5).prepared(
        replace(setup.goal, widths=(7, 7))
    )
    weight = setup.network.get_parameter("0.0.weight")
    with torch.no_grad():
        weight[3] *= 0.01
        method.start(setup.network)
        weight.grad = torch.ones_like(weight)
        method.after_backward(setup.network, moment(completed=0.25))
    assert weight.grad is not None
    assert torch.allclose(weight.grad[3], 1 + 0.4 * weight[3])
    assert torch.equal(weight.grad[0], torch.ones_like(weight[0]))


def test_greg_2_picks_after_a_while(setup: Setup) -> None:
    method = GrowingRegularization(ceiling=1.0, ramp=1.0, pick_at=0.5).prepared(setup.goal)
    weight = setup.network.get_parameter("0.0.weight")
    method.start(setup.network)
    with torch.no_grad():
        for completed, penalised in ((0.4, 8), (0.5, 8 - setup.goal.widths[0])):
            weight.grad = torch.zeros_like(weight)
            method.after_backward(setup.network, moment(completed=completed))
            assert int(weight.grad.flatten(1).any(1).sum()) == penalised


def test_the_penalty_of_greg_2() -> None:
    """It rises to a hundredth for all filters, then to the ceiling; in GReg-1 straight to that."""
    second = GrowingRegularization(ceiling=1.0, ramp=0.9, pick_at=0.1)
    found = [second._strength(one) for one in (0.0, 0.05, 0.1, 0.5, 0.9, 1.0)]
    assert found == pytest.approx([0.0, 0.005, 0.01, 0.505, 1.0, 1.0])
    first = GrowingRegularization(ceiling=1.0, ramp=0.8)
    assert [first._strength(one) for one in (0.0, 0.2, 0.9)] == pytest.approx([0.0, 0.25, 1.0])


def test_seeds_reach_what_is_drawn(setup: Setup) -> None:
    """Equal seeds draw equal layers, other ones others."""
    for make in (AutoPruner, DiscriminationAwarePruning):
        drawn = []
        for seed in (0, 0, 1):
            method = make().prepared(replace(setup.goal, widths=(4, 6), seed=seed))
            method.start(setup.network)
            own = method._layers["0.0"] if make is AutoPruner else method._heads["1.0"].linear
            drawn.append(own.weight.detach())
        assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    points = torch.rand(40, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(clusters(points, 9), clusters(points, 9, 0))
    assert not torch.equal(clusters(points, 9), clusters(points, 9, 1))


def test_centripetal_update(setup: Setup) -> None:
    """F ← F − τ (mean gradient + ε (F − mean F)) within a cluster; BN and bias by ε/10."""
    method = CentripetalSgd(strength=0.5).prepared(replace(setup.goal, widths=(7, 7)))
    weight, gamma = (setup.network.get_parameter(name) for name in ("0.0.weight", "0.1.weight"))
    with torch.no_grad():
        weight[4] = weight[1] + 0.01
        method.start(setup.network)
        weight.grad, gamma.grad = torch.randn_like(weight), torch.randn_like(gamma)
        gradient, slope = weight.grad.clone(), gamma.grad.clone()
        method.after_backward(setup.network, moment())
    mean, pull = (gradient[1] + gradient[4]) / 2, 0.5 * (weight[4] - (weight[1] + weight[4]) / 2)
    assert torch.allclose(weight.grad[4], mean + pull, atol=1e-6)
    assert torch.allclose(weight.grad[0], gradient[0])
    expected = (slope[1] + slope[4]) / 2 + 0.05 * (gamma[1] - gamma[4]) / 2
    assert torch.allclose(gamma.grad[1], expected)


def test_clusters_and_their_means(setup: Setup) -> None:
    points = torch.tensor([[0.0], [10.0], [0.2], [10.4]])
    own = clusters(points, 2)
    assert own[0] == own[2] != own[1] == own[3]
    part = next(s for s in setup.structure.groups[0].slices if s.tensor == "0.1.weight")
    means = cluster_means(torch.arange(8.0), part, torch.tensor([0, 1, 0, 1, 2, 3, 4, 5]))
    assert means.tolist() == [1, 2, 1, 2, 4, 5, 6, 7]


@pytest.mark.parametrize("frozen", ["0.0.weight", "0.1.bias", "1.0.weight"])
def test_what_is_frozen_is_not_clustered(setup: Setup, frozen: str) -> None:
    """Its units would not become equal, or nothing would take over what is read of the others."""
    method = CentripetalSgd().prepared(replace(setup.goal, widths=(4, 7)))
    setup.network.get_parameter(frozen).requires_grad_(False)
    before = deep_copy(setup.network)
    method.start(setup.network)
    assert difference(method.merge(setup.network), before) == 0
    norms = setup.network.get_parameter("0.0.weight").detach().flatten(1).norm(dim=1)
    kept = (method.scores(setup.network)[0] >= 1).nonzero()[:, 0]
    assert set(kept.tolist()) == set(norms.argsort()[4:].tolist())


def test_accelerated_proximal_step() -> None:
    """z = S(1 − .1·2) = .8 − .05 = .75; v = −.25 + .9·(−.1) = −.34; λ = .75 − .306."""
    gate = torch.tensor([1.0, 0.1], requires_grad=True)
    gate.grad = torch.tensor([2.0, 1.0])
    config = SparseStructureSelectionConfig(sparsity=0.5, momentum=0.9)
    with torch.no_grad():
        value, velocity = accelerated_step(gate, torch.tensor([-0.1, 0.0]), 0.1, config)
    assert torch.allclose(velocity, torch.tensor([-0.34, -0.1]))
    assert torch.allclose(value, torch.tensor([0.444, 0.0]))


def test_proximal_step_of_scales(setup: Setup) -> None:
    """γ ← S(γ − η g) by η ρ λ; λ = (27 + 63 + 36) / 36 for 3x3 kernels, 3 and 7 channels, 6x6."""
    method = Ista(sparsity=0.1).prepared(setup.goal)
    assert channel_cost(setup.structure.groups[0], setup.structure) == pytest.approx(126 / 36)
    gamma = setup.network.get_parameter("0.1.weight")
    method.start(setup.network)
    with torch.no_grad():
        gamma[:3] = torch.tensor([1.0, -0.5, 0.01])
        gamma.grad = torch.zeros_like(gamma)
        gamma.grad[0] = 2.0
        method.after_backward(setup.network, moment(rate=0.1))
        assert gamma.grad is None
        method.after_step(setup.network, moment(rate=0.1))
    shrink = 0.1 * 0.1 * 126 / 36
    assert torch.allclose(gamma[:3], torch.tensor([0.8 - shrink, -0.5 + shrink, 0.0]))


def test_a_channel_costs_its_own_positions() -> None:
    """Behind a stride of 2: (27 + 63) weights and 3x3 positions, of an image of 6x6."""
    network = plain()
    network[0][0] = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    structure = Setup.of(randomized(network)).structure
    assert channel_cost(structure.groups[0], structure) == pytest.approx((27 + 63 + 9) / 36)


def test_rows_of_a_compactor() -> None:
    """m ∂L/∂Q + λ Q/‖Q‖: the second row is forgotten, so the task's gradient does not count."""
    compactor = torch.tensor([[3.0, 4.0], [0.0, 2.0]], requires_grad=True)
    compactor.grad = torch.ones(2, 2)
    with torch.no_grad():
        step = row_gradient(compactor, torch.tensor([[1.0], [0.0]]), 0.5)
    assert torch.allclose(step, torch.tensor([[1.3, 1.4], [0.0, 0.5]]))
    with pytest.raises(UsageError, match="full must not be smaller"):
        ResRep(begin=0.5, full=0.1).check(None)  # type: ignore[arg-type]


def test_rows_are_not_chosen_before_the_beginning(setup: Setup) -> None:
    """Even where all of them are chosen at once."""
    method = ResRep(begin=0.5, full=0.5).prepared(setup.goal)
    method.start(setup.network.train())
    chosen = []
    with torch.no_grad():
        for completed in (0.0, 0.4, 0.5):
            method.after_step(setup.network, moment(completed=completed))
            chosen.append(sum(int(one.sum()) for one in method._forgotten.values()))
    assert chosen[:2] == [0, 0] and chosen[2] > 0


def test_compactors_of_double_precision() -> None:
    setup = Setup.of(randomized(without_batchnorm()))
    method, network = ResRep().prepared(setup.goal), setup.network.double().train()
    method.start(network)
    inside = method.called(network)(IMAGES.double())
    assert method._compactors and inside.dtype == torch.float64
    assert torch.allclose(method.finish(network)(IMAGES.double()), inside)


def test_saliency_and_the_mask(setup: Setup) -> None:
    """|Σ g ⊙ W| of what reads every channel; the largest stay in the mask."""
    method = GlobalDynamicPruning(interval=1).prepared(setup.goal)
    method.start(setup.network)
    with torch.no_grad():
        for one in setup.network.parameters():
            one.grad = torch.randn_like(one)
        method.after_backward(setup.network, moment())
    weight = setup.network.get_parameter("1.0.weight")
    assert weight.grad is not None
    saliency = (weight.grad * weight).sum((0, 2, 3)).abs().detach().double()
    stays = method.scores(setup.network)[0] >= 1
    others = saliency[~stays]
    assert not len(others) or saliency[stays].min() >= others.max()
    method.called(setup.network).train()(torch.randn(4, 3, 6, 6)).sum().backward()
    assert bool(weight.grad[:, ~stays].any())  # masked filters can return


def test_saliency_is_measured_when_the_mask_is_drawn(setup: Setup) -> None:
    """Every second step, until the mask is fixed."""
    method = GlobalDynamicPruning(interval=2, fixed_at=0.5).prepared(setup.goal)
    method.start(setup.network)
    nn.functional.cross_entropy(setup.network(IMAGES), LABELS).backward()
    seen = []
    with torch.no_grad():
        for step, completed in ((1, 0.1), (2, 0.2), (3, 0.3), (4, 0.6)):
            before = method.state()["saliency"][0]
            method.after_backward(setup.network, moment(step, completed))
            seen.append(method.state()["saliency"][0] is not before)
    assert seen == [False, True, False, False]


def test_learning_compression_step(setup: Setup) -> None:
    """Penalty μ/2 ‖w − θ − λ/μ‖², then θ = Π(w − λ/μ) and λ ← λ − μ (w − θ)."""
    method = LearningCompression(rounds=2, penalty=0.5, growth=2.0).prepared(
        replace(setup.goal, widths=(7, 7))
    )
    weight = setup.network.get_parameter("0.0.weight")
    with torch.no_grad():
        weight[6] *= 0.01
    method.start(setup.network)
    loss = method.loss(setup.network)
    assert loss is not None and torch.allclose(loss, 0.25 * weight[6].square().sum())
    with torch.no_grad():
        method.after_step(setup.network, moment(completed=0.6))
    state = method.state()
    expected = torch.zeros_like(weight)
    expected[6] = -0.5 * weight[6].detach()
    assert torch.allclose(state["multipliers"]["0.0.weight"], expected)
    assert state["penalty"] == 1.0 and math.isfinite(float(loss.detach()))
    assert isinstance(setup.network, nn.Module)


def test_gates_of_what_channels_answer(setup: Setup) -> None:
    """v = sigmoid(α x) multiplies what is read, x from pooled means; λ (mean v − r)² is added."""
    method = AutoPruner(strength=2.0, first=0.5, cells=1).prepared(
        replace(setup.goal, widths=(4, 7))
    )
    method.start(setup.network)
    layer = method._layers["0.0"]
    with torch.no_grad():
        layer.weight.copy_(torch.eye(8))
        layer.bias.fill_(-0.3)
    images = torch.randn(4, 3, 6, 6)
    inside = method.called(setup.network).train()
    features = setup.network[0](images)
    gates = torch.sigmoid(0.5 * (features.mean(0).amax((1, 2)) - 0.3))
    others = method.gates["1.0"]
    inside(images)
    assert torch.allclose(method._open["0.0"], gates, atol=1e-6)
    second = method._open["1.0"]
    penalty = method.loss(setup.network)
    expected = 2 * ((gates.mean() - 4 / 8) ** 2 + (second.mean() - 1) ** 2)
    assert penalty is not None and torch.allclose(penalty, expected)
    assert torch.equal(others, torch.ones(7))
    with torch.no_grad():
        method.after_step(setup.network, moment(completed=0.4))
    assert method.state()["sharpness"] == pytest.approx(0.5 + 0.5 * (100 - 0.5))
    expected_scores = gates.detach().double().logit() / 0.5
    kept = method.scores(setup.network)[0] >= 1
    assert set(kept.nonzero()[:, 0].tolist()) == set(expected_scores.argsort()[4:].tolist())


def test_pooled_activations() -> None:
    """Means over samples, then the largest of every cell."""
    channels = torch.arange(32.0).view(1, 1, 2, 4, 4)  # two samples of 4 x 4 pixels
    assert pooled(channels, 2).tolist() == [[13.0, 15.0, 21.0, 23.0]]
    assert pooled(torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]]), 1).tolist() == [[2.0], [2.0]]


def test_channels_are_admitted_by_gradients(setup: Setup) -> None:
    """From none: those with the largest ‖∂L/∂W_k‖ come first, and only what reads them trains."""
    method = DiscriminationAwarePruning(heads=1, tuning=0.0, end=0.8).prepared(
        replace(setup.goal, widths=(4, 7))
    )
    network = setup.network.train()
    method.start(network)
    called = method.called(network)
    with torch.no_grad():
        method.after_step(network, moment(completed=0.0))
    assert not method.state()["admitted"][0].any()
    nn.functional.cross_entropy(called(IMAGES), LABELS).backward()
    weight = network.get_parameter("1.0.weight")
    assert weight.grad is not None
    norms = weight.grad.transpose(0, 1).flatten(1).norm(dim=1)
    with torch.no_grad():
        method.after_backward(network, moment(completed=0.4))
    best = set(norms.argsort(descending=True)[:2].tolist())
    admitted = method.state()["admitted"][0]
    assert set(admitted.nonzero()[:, 0].tolist()) == best
    assert network.get_parameter("0.0.weight").grad is None
    assert not weight.grad.any()  # none of them took part in this step
    weight.grad = None
    nn.functional.cross_entropy(called(IMAGES), LABELS).backward()
    assert weight.grad is not None
    with torch.no_grad():
        method.after_backward(network, moment(completed=0.4))
    assert not weight.grad[:, ~admitted].any() and weight.grad[:, admitted].any()
    before = weight.detach().clone()
    assert torch.equal(method.finish(network).get_parameter("1.0.weight"), before)
    with torch.no_grad():
        method.after_backward(network, moment(completed=0.8))
        method.finish(network)
    assert int(weight.detach().transpose(0, 1).flatten(1).any(1).sum()) == 4
    loss = method.loss(network)
    dense, own = setup.network[1][0], method._features["1.0"]
    assert loss is not None and own.shape[1] == dense.out_channels
    assert torch.allclose(loss, (own - method._wanted["1.0"]).square().mean())


def test_segments_share_the_run(setup: Setup) -> None:
    """Half of a segment's time is for tuning, the other half for its groups one by one."""
    first, second = segments(setup.structure, [0, 1], 1, 0.5, 0.8)
    assert first.head is not None and first.head.name == "1.0" and second.head is None
    (window,) = first.windows
    assert (window.group, window.begin, window.end) == (0, pytest.approx(0.2), pytest.approx(0.4))
    assert [window.count(one, 4) for one in (0.2, 0.25, 0.26, 0.9)] == [1, 1, 2, 4]
    assert second.windows[0].begin == pytest.approx(0.6)
    (whole,) = segments(setup.structure, [1, 0], 0, 0.0, 1.0)
    assert whole.head is None and [one.group for one in whole.windows] == [0, 1]


def test_networks_without_classes_are_refused(setup: Setup) -> None:
    with pytest.raises(UsageError, match="the network is no classifier"):
        DiscriminationAwarePruning().prepared(replace(setup.goal, classes=None))


def test_channels_are_chosen_before_the_run_ends() -> None:
    """No step begins at its end, so that some would never be."""
    with pytest.raises(UsageError, match=r"the method 'dcp' cannot have end=1\.0"):
        DiscriminationAwarePruning(end=1.0)

"""What every criterion promises, on every kind of group."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.importance import IMPORTANCES, Evidence, make_importance, rank_groups
from autoprune.structure.groups import ChannelGroup

INPUTS = torch.randn(60, 3, 6, 6, generator=torch.Generator().manual_seed(3))
LABELS = torch.arange(60) % 4
SAMPLED = {"random", "coreset", "aofp"}


def block(inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4))


def plain(net: Any) -> nn.Module:
    return nn.Sequential(block(3, 8), block(8, 7), head(7))


def without_batchnorm(net: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 7, 3), head(7))


def residual(net: Any) -> nn.Module:
    return net(
        lambda m, x: m.head((lambda h: F.relu(h + m.d(m.c(h))))((lambda h: h + m.b(h))(m.a(x)))),
        a=block(3, 8),
        b=block(8, 8),
        c=block(8, 6),
        d=nn.Conv2d(6, 8, 1),
        head=head(8),
    )


def depthwise(net: Any) -> nn.Module:
    return nn.Sequential(block(3, 8), block(8, 8, groups=8), block(8, 6, 1), head(6))


def grouped(net: Any) -> nn.Module:
    return nn.Sequential(block(3, 12, 1), block(12, 12, groups=4), head(12))


def concatenated(net: Any) -> nn.Module:
    return net(
        lambda m, x: m.head(m.c(torch.cat([m.a(x), m.b(x)], 1))),
        a=block(3, 6),
        b=block(3, 7),
        c=block(13, 6),
        head=head(6),
    )


def flattened(net: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4))


def transposed(net: Any) -> nn.Module:
    """A consumer without moments."""
    return nn.Sequential(block(3, 6), nn.ConvTranspose2d(6, 5, 2), nn.ReLU(), head(5))


def functional(net: Any) -> nn.Module:
    """A consumer whose module is never called."""
    return net(
        lambda m, x: m.head(F.relu(F.conv2d(m.a(x), m.b.weight))),
        a=block(3, 6),
        b=nn.Conv2d(6, 5, 3),
        head=head(5),
    )


KINDS: list[Callable[[Any], nn.Module]] = [
    *(plain, without_batchnorm, residual, depthwise, grouped, concatenated, flattened),
    *(transposed, functional),
]


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights of a seed, BN statistics and scales such as training leaves."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                module.reset_parameters()
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.4)
    for _ in range(3):
        model.train()(INPUTS)
    return model.eval()


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def model(request: pytest.FixtureRequest, net: Any) -> nn.Module:
    return randomized(request.param(net))


@pytest.fixture
def evidence(model: nn.Module, evidence_of: Any) -> Evidence:
    return evidence_of(model, INPUTS, LABELS)


def change_unit(model: nn.Module, group: ChannelGroup, unit: int, value: float) -> nn.Module:
    changed = copy.deepcopy(model)
    tensors = {**dict(changed.named_parameters()), **dict(changed.named_buffers())}
    with torch.no_grad():
        for s in group.slices:
            entries = torch.from_numpy(s.positions[unit])
            tensors[s.tensor].index_fill_(s.dim, entries, value)
    return changed


@pytest.mark.parametrize("name", IMPORTANCES)
def test_rankings_are_complete_finite_and_repeatable(
    name: str, evidence: Evidence, evidence_of: Any
) -> None:
    criterion = make_importance(name)
    before = {key: value.clone() for key, value in evidence.model.state_dict().items()}
    rankings = rank_groups(criterion, evidence)
    assert len(rankings) == len(evidence.structure.groups) > 0
    for group, ranking in zip(evidence.structure.groups, rankings, strict=True):
        assert sorted(ranking.order) == list(range(group.size))
        assert ranking.errors is not None and len(ranking.errors) == group.size + 1
        assert list(ranking.errors) == sorted(ranking.errors, reverse=True)
        assert ranking.errors[-1] == 0
        if ranking.scores is not None:
            assert list(ranking.scores) == sorted(ranking.scores, reverse=True)
    assert rank_groups(criterion, evidence_of(evidence.model, INPUTS, LABELS)) == rankings
    assert all(torch.equal(value, before[k]) for k, value in evidence.model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in evidence.model.parameters())


@pytest.mark.parametrize("name", [name for name in IMPORTANCES if name != "random"])
def test_a_dead_unit_goes_first(name: str, evidence: Evidence, evidence_of: Any) -> None:
    for group in evidence.structure.groups:
        dead = change_unit(evidence.model, group, 1, 0.0)
        ranking = make_importance(name).rank(group, evidence_of(dead, INPUTS, LABELS))
        assert ranking.order[-1] == 1


# Units that are never zero are equal to APoZ, and equal units stay in their order.
@pytest.mark.parametrize("name", [n for n in IMPORTANCES if n not in {*SAMPLED, "apoz"}])
def test_renumbered_units_are_ranked_alike(
    name: str, model: nn.Module, evidence: Evidence, evidence_of: Any
) -> None:
    group = evidence.structure.groups[0]
    renumbered = copy.deepcopy(model)
    tensors = {**dict(renumbered.named_parameters()), **dict(renumbered.named_buffers())}
    numbers = torch.randperm(group.size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for s in group.slices:
            positions = torch.from_numpy(s.positions)
            old = tensors[s.tensor].index_select(s.dim, positions[numbers].flatten())
            tensors[s.tensor].index_copy_(s.dim, positions.flatten(), old)
    order = make_importance(name).rank(group, evidence).order
    new = make_importance(name).rank(group, evidence_of(renumbered, INPUTS, LABELS)).order
    assert tuple(numbers[list(new)].tolist()) == order


@pytest.mark.parametrize("name", IMPORTANCES)
def test_scale_of_a_layer_does_not_matter(name: str, net: Any, evidence_of: Any) -> None:
    """Filters four times as large, read by weights a quarter as large: the same network."""
    model = randomized(without_batchnorm(net))
    scaled: Any = copy.deepcopy(model)
    with torch.no_grad():
        scaled[0].weight.mul_(4)
        scaled[0].bias.mul_(4)
        scaled[2].weight.div_(4)
    orders = []
    for one in (model, scaled):
        evidence = evidence_of(one, INPUTS, LABELS)
        orders.append(make_importance(name).rank(evidence.structure.groups[0], evidence).order)
    assert orders[0] == orders[1]


@pytest.mark.parametrize("name", sorted(SAMPLED - {"aofp"}))
def test_seeds_and_groups_draw_for_themselves(name: str, net: Any, evidence_of: Any) -> None:
    model = nn.Sequential(*(block(8 if i else 3, 8) for i in range(3)), head(8))
    orders = [
        ranking.order
        for seed in range(3)
        for ranking in rank_groups(make_importance(name), evidence_of(model, INPUTS, seed=seed))
    ]
    assert len(set(orders)) == len(orders)


@pytest.mark.parametrize("name", IMPORTANCES)
def test_what_is_not_needed_is_not_gathered(name: str, net: Any, evidence_of: Any) -> None:
    """A criterion that says it needs less works with less."""
    criterion = make_importance(name)
    labels = LABELS if criterion.needs in ("labels", "gradients") else None
    evidence = evidence_of(randomized(plain(net)), INPUTS, labels)
    criterion.rank(evidence.structure.groups[0], evidence)
    gathered = {"activations", "taylor"} & vars(evidence).keys()
    assert ("taylor" in gathered) == (criterion.needs == "gradients")
    assert not gathered or criterion.needs != "nothing"


@pytest.mark.parametrize("name", IMPORTANCES)
def test_one_sample_is_enough_for_an_order(name: str, net: Any, evidence_of: Any) -> None:
    evidence = evidence_of(randomized(plain(net)), INPUTS[:1], LABELS[:1])
    for ranking in rank_groups(make_importance(name), evidence):
        assert all(map(math.isfinite, ranking.errors or ()))

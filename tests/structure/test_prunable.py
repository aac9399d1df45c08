"""Toy networks: which channels form a group, and that cutting them is right and counted right."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.cost import cost_models
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import Inputs, run
from autoprune.structure.surgery import apply_policy
from autoprune.structure.tracing.trace import trace
from autoprune.structure.verify import analyze

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Group(NamedTuple):
    """Size in units, layers that produce, (layer that consumes: its inputs per unit)."""

    size: int
    producers: tuple[str, ...]
    consumers: Mapping[str, int]


class Case(NamedTuple):
    build: Callable[[Any], nn.Module]
    groups: Mapping[str, Group]
    inputs: Inputs = IMAGES


def conv(inputs: int, outputs: int, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=options.pop("padding", size // 2), **options)


def squeeze_excite(m: Any, x: Tensor) -> Tensor:
    h = m.stem(x)
    gate = m.up(m.down(h.mean((2, 3), keepdim=True)).relu()).sigmoid()
    out: Tensor = m.out(h * gate)
    return out


def residual(m: Any, x: Tensor) -> Tensor:
    h = m.stem(x)
    out: Tensor = m.head((h + m.b(m.a(h).relu())).mean((2, 3)))
    return out


def gated(m: Any, x: Tensor) -> Tensor:
    h, gate = m.stem(x).chunk(2, 1)
    out: Tensor = m.out(h * gate.sigmoid())
    return out


def split_attention(m: Any, x: Tensor) -> Tensor:
    h = m.grouped(m.stem(x)).relu()
    parts = h.reshape(len(h), 2, -1, *h.shape[2:])
    gate = m.up(m.down(parts.sum(1).mean((2, 3), keepdim=True)).relu())
    gate = gate.reshape(len(h), m.groups, 2, -1).transpose(1, 2).softmax(1)
    out: Tensor = m.out((parts * gate.reshape(len(h), 2, -1, 1, 1)).sum(1))
    return out


CASES = {
    "chain": Case(
        lambda net: nn.Sequential(
            conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(6, 4),
        ),
        {"0": Group(8, ("0",), {"3": 1}), "3": Group(6, ("3",), {"6": 1})},
    ),
    "residual": Case(
        lambda net: net(
            residual, stem=conv(3, 8), a=conv(8, 5), b=conv(5, 8), head=nn.Linear(8, 4)
        ),
        {
            "stem": Group(8, ("stem", "b"), {"a": 1, "head": 1}),
            "a": Group(5, ("a",), {"b": 1}),
        },
    ),
    "depthwise": Case(
        lambda net: nn.Sequential(conv(3, 8), conv(8, 8, groups=8), nn.ReLU6(), conv(8, 4, 1)),
        {"0": Group(8, ("0",), {"3": 1})},
    ),
    "depthwise with multiplier": Case(
        lambda net: nn.Sequential(conv(3, 8), conv(8, 16, groups=8), conv(16, 4, 1)),
        {"0": Group(8, ("0",), {"2": 2})},
    ),
    "grouped: whole convolution groups are units": Case(
        lambda net: nn.Sequential(conv(3, 8), conv(8, 16, groups=4), nn.ReLU(), conv(16, 4, 1)),
        {"0": Group(4, ("0",), {"3": 4})},
    ),
    "grouped: groups that are summed up lose channels at the same places": Case(
        lambda net: net(
            split_attention, stem=conv(3, 8), grouped=conv(8, 12, groups=2), down=conv(6, 5, 1),
            up=conv(5, 12, 1), out=conv(6, 4, 1), groups=1,
        ),
        {
            "stem": Group(4, ("stem",), {"grouped": 1}),
            "grouped": Group(6, ("grouped", "up"), {"down": 1, "out": 1}),
            "down": Group(5, ("down",), {"up": 1}),
        },
    ),
    "grouped: groups that are summed up, in two parts": Case(
        lambda net: net(
            split_attention, stem=conv(3, 12), grouped=conv(12, 16, groups=4),
            down=conv(8, 6, 1, groups=2), up=conv(6, 16, 1, groups=2), out=conv(8, 4, 1), groups=2,
        ),
        {
            "stem": Group(3, ("stem",), {"grouped": 1}),
            "grouped": Group(4, ("grouped", "up"), {"down": 1, "out": 2}),
            "down": Group(3, ("down",), {"up": 1}),
        },
    ),
    "grouped: a shuffle deals groups out": Case(
        lambda net: nn.Sequential(
            conv(3, 12), conv(12, 12, groups=2), nn.ReLU(), nn.ChannelShuffle(2),
            conv(12, 8, groups=2), conv(8, 4, 1),
        ),
        {
            "0": Group(6, ("0",), {"1": 1}),
            "1": Group(3, ("1",), {"4": 2}),
            "4": Group(4, ("4",), {"5": 2}),
        },
    ),
    "channel shuffle between groups": Case(
        lambda net: nn.Sequential(
            conv(3, 8), nn.ChannelShuffle(2), conv(8, 8, groups=2), conv(8, 4, 1)
        ),
        {"0": Group(2, ("0",), {"3": 4})},
    ),
    "concatenation": Case(
        lambda net: net(
            lambda m, x: m.c(torch.cat([m.a(x), m.b(x).relu()], 1)),
            a=conv(3, 4), b=conv(3, 6), c=conv(10, 5),
        ),
        {"a": Group(4, ("a",), {"c": 1}), "b": Group(6, ("b",), {"c": 1})},
    ),
    "chunks multiplied": Case(
        lambda net: net(gated, stem=conv(3, 8), out=conv(4, 3)),
        {"stem": Group(4, ("stem",), {"out": 1})},
    ),
    "flatten before linear": Case(
        lambda net: nn.Sequential(
            conv(3, 4, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 7), nn.Linear(7, 3)
        ),
        {"0": Group(4, ("0",), {"3": 16}), "3": Group(7, ("3",), {"4": 1})},
    ),
    "squeeze-excite": Case(
        lambda net: net(
            squeeze_excite,
            stem=conv(3, 8), down=conv(8, 4, 1), up=conv(4, 8, 1), out=conv(8, 3),
        ),
        {
            "stem": Group(8, ("stem", "up"), {"down": 1, "out": 1}),
            "down": Group(4, ("down",), {"up": 1}),
        },
    ),
    "shared layer called twice in a row": Case(
        lambda net: net(
            lambda m, x: m.head(m.c(m.c(m.stem(x)).relu()).mean((2, 3))),
            stem=conv(3, 6), c=conv(6, 6), head=nn.Linear(6, 4),
        ),
        {"stem": Group(6, ("stem", "c"), {"c": 1, "head": 1})},
    ),
    "shared layer on two branches": Case(
        lambda net: net(
            lambda m, x: m.out(m.c(m.stem(x)) + m.c(m.stem(x.flip(3)))),
            stem=conv(3, 6), c=conv(6, 5), out=conv(5, 2),
        ),
        {"stem": Group(6, ("stem",), {"c": 1}), "c": Group(5, ("c",), {"out": 1})},
    ),
    "transposed convolution": Case(
        lambda net: nn.Sequential(
            conv(3, 6), nn.ReLU(), nn.ConvTranspose2d(6, 5, 2, stride=2), nn.BatchNorm2d(5),
            conv(5, 2),
        ),
        {"0": Group(6, ("0",), {"2": 1}), "2": Group(5, ("2",), {"4": 1})},
    ),
    "layer scale": Case(
        lambda net: net(
            lambda m, x: m.b(m.a(x) * m.gamma),
            a=conv(3, 8), gamma=nn.Parameter(torch.randn(8, 1, 1)), b=conv(8, 3),
        ),
        {"a": Group(8, ("a",), {"b": 1})},
    ),
    "positional parameter": Case(
        lambda net: net(
            lambda m, x: m.b(m.a(x) + m.position),
            a=conv(3, 8), position=nn.Parameter(torch.randn(1, 8, 8, 8)), b=conv(8, 3),
        ),
        {"a": Group(8, ("a",), {"b": 1})},
    ),
    "maps over the image have no channels": Case(
        lambda net: net(
            lambda m, x: m.b(m.a(x) * m.window + m.a(x).mean((2, 3), True) * m.window[..., :1, :]),
            a=conv(3, 8), window=nn.Parameter(torch.randn(1, 1, 8, 8)), b=conv(8, 3),
        ),
        {"a": Group(8, ("a",), {"b": 1})},
    ),
    "PReLU by channel": Case(
        lambda net: nn.Sequential(conv(3, 8), nn.PReLU(8), conv(8, 3)),
        {"0": Group(8, ("0",), {"2": 1})},
    ),
    "PReLU with one weight": Case(
        lambda net: nn.Sequential(conv(3, 8), nn.PReLU(), conv(8, 3)),
        {"0": Group(8, ("0",), {"2": 1})},
    ),
    "instance normalisation": Case(
        lambda net: nn.Sequential(conv(3, 8), nn.InstanceNorm2d(8, affine=True), conv(8, 3)),
        {"0": Group(8, ("0",), {"2": 1})},
    ),
    "named padding": Case(
        lambda net: nn.Sequential(
            conv(3, 8, padding="same"), nn.ReLU(), conv(8, 4, padding="valid"), conv(4, 2)
        ),
        {"0": Group(8, ("0",), {"2": 1}), "2": Group(4, ("2",), {"3": 1})},
    ),
    "one dimension": Case(
        lambda net: nn.Sequential(
            nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.MaxPool1d(2), nn.Conv1d(8, 2, 3)
        ),
        {"0": Group(8, ("0",), {"3": 1})},
        torch.randn(2, 3, 12),
    ),
    "three dimensions": Case(
        lambda net: nn.Sequential(nn.Conv3d(1, 8, 3), nn.BatchNorm3d(8), nn.Conv3d(8, 2, 3)),
        {"0": Group(8, ("0",), {"2": 1})},
        torch.randn(2, 1, 6, 6, 6),
    ),
    "inputs by name, outputs in a dict": Case(
        lambda net: net(
            lambda m, image, mask: {"out": m.b(m.a(image) * mask), "mask": mask},
            a=conv(3, 8), b=conv(8, 2),
        ),
        {"a": Group(8, ("a",), {"b": 1})},
        {"image": IMAGES, "mask": torch.ones(2, 1, 8, 8)},
    ),
    "inputs and outputs in tuples": Case(
        lambda net: net(
            lambda m, p, q: (m.c(torch.cat([m.a(p), m.b(q)], 1)), p),
            a=conv(3, 8), b=conv(3, 4), c=conv(12, 2),
        ),
        {"a": Group(8, ("a",), {"c": 1}), "b": Group(4, ("b",), {"c": 1})},
        (IMAGES, IMAGES.flip(0)),
    ),
    "embedded tokens": Case(
        lambda net: nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
        {"1": Group(8, ("1",), {"3": 1})},
        torch.arange(10).reshape(2, 5),
    ),
    "zero-padded shortcut": Case(
        lambda net: net(
            lambda m, x: m.b(F.pad(m.a(x), (0, 0, 0, 0, 2, 3)) * m.scale),
            a=conv(3, 4), scale=nn.Parameter(torch.ones(1)), b=conv(9, 2),
        ),
        {"a": Group(4, ("a",), {"b": 1})},
    ),
}  # fmt: skip


@pytest.fixture(params=CASES, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def model(case: Case, net: Any) -> nn.Module:
    torch.manual_seed(0)
    return randomized(case.build(net).eval())


@pytest.fixture(scope="module")
def structure(case: Case, model: nn.Module) -> Structure:
    return analyze(model, case.inputs)


def randomized(model: nn.Module) -> nn.Module:
    """Give norms statistics and scales that tell their channels apart."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                if tensor is not None:
                    nn.init.uniform_(tensor, 0.5, 2.0)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.9)
    return model


def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        return tree_leaves(run(model, inputs))


def test_expected_groups(case: Case, structure: Structure) -> None:
    found = {
        g.name: Group(
            g.size,
            tuple(name.removesuffix(".weight") for name in g.producers),
            {s.tensor.removesuffix(".weight"): s.positions.shape[1] for s in g.consumers},
        )
        for g in structure.groups
    }
    assert found == case.groups


def test_every_part_of_a_group_has_its_size(structure: Structure) -> None:
    for group in structure.groups:
        for s in group.slices:
            assert len(s.positions) == group.size
            assert np.unique(s.positions).size == s.positions.size
            assert s.positions.max() < structure.shapes[s.tensor][s.dim]


@pytest.mark.parametrize("seed", range(3))
def test_cut_equals_zeroed_consumers(
    case: Case, model: nn.Module, structure: Structure, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    zeroed = copy.deepcopy(model).requires_grad_(False)
    kept = []
    for group in structure.groups:
        units = rng.permutation(group.size)
        width = int(rng.integers(1, group.size + 1))
        kept.append(units[:width].tolist())
        for s in group.consumers:
            gone = torch.from_numpy(s.positions[units[width:]].reshape(-1))
            zeroed.get_parameter(s.tensor).index_fill_(s.dim, gone, 0.0)
    small = apply_policy(model, structure.policy(kept))
    for a, b in zip(outputs(zeroed, case.inputs), outputs(small, case.inputs), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)


def test_full_policy_changes_nothing(case: Case, model: nn.Module, structure: Structure) -> None:
    whole = apply_policy(model, structure.policy([range(g.size) for g in structure.groups]))
    for a, b in zip(outputs(model, case.inputs), outputs(whole, case.inputs), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("keep", [1.0, 0.6, 0.01])
def test_costs_are_those_of_the_cut_network(
    case: Case,
    model: nn.Module,
    structure: Structure,
    keep: float,
    random_cut: Any,
    count_macs: Callable[[nn.Module, Inputs], float],
) -> None:
    small, widths = random_cut(model, structure, keep)
    costs = cost_models(structure, adds_bias=False)
    assert costs["flops"].total(widths) == count_macs(small, case.inputs)
    assert costs["params"].total(widths) == sum(p.numel() for p in small.parameters())
    for cost in costs.values():
        assert sum(cost.by_layer(widths).values()) == cost.total(widths)


def test_tracing_leaves_the_model_alone(case: Case, model: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, case.inputs)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

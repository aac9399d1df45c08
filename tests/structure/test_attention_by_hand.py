"""Attention written by hand: tables of positions, learnt queries, heads that read each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_cuts import random_cuts
from torch import Tensor, nn

from autoprune.core.policy import PruningPolicy
from autoprune.cost import cost_models
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import apply_policy
from autoprune.structure.verify import CutTest, analyze

WIDTH = 24
TOKENS = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))


class RelativePositions(nn.Module):
    """Queries are also multiplied with a table, of which short sequences read a part."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.heads, self.width = 3, width // 3
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table = nn.Parameter(torch.randn(31, self.width))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
        places = torch.arange(n)
        offsets = self.table[places[:, None] - places + n - 1]
        scores = q @ k.mT + torch.einsum("bhnc,nmc->bhnm", q, offsets)
        mixed = scores.softmax(-1) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(b, n, self.heads * self.width))
        return out


class LearntQueries(nn.Module):
    """A few queries that are parameters look at all tokens."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(4, width))
        self.k, self.v = nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.queries.expand(len(x), -1, -1) @ self.k(x).mT
        out: Tensor = self.out((scores.softmax(-1) @ self.v(x)).mean(1, keepdim=True))
        return out


class Cascaded(nn.Module):
    """Every head has a layer of its own and reads what the one before it gave.

    All layers are split by the same numbers. Scores of a single head get a bias of their position.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.key, self.value = 4, width // 2
        size = 2 * self.key + self.value
        self.layers = nn.ModuleList(nn.Linear(self.value, size) for _ in range(2))
        self.bias = nn.Parameter(torch.randn(2, 16, 16))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, found = x.shape[1], list[Tensor]()
        for place, (layer, part) in enumerate(zip(self.layers, x.chunk(2, -1), strict=True)):
            given = part + found[-1] if found else part
            q, k, v = layer(given).split([self.key, self.key, self.value], -1)
            scores = q @ k.mT + self.bias[place, :n, :n]
            found.append(scores.softmax(-1) @ v)
        out: Tensor = self.out(torch.cat(found, -1))
        return out


class Net(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.stem, self.block = nn.Linear(6, WIDTH), block
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 30), nn.GELU(), nn.Linear(30, WIDTH))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block(x)
        out: Tensor = self.head((x + self.mlp(x)).mean(1))
        return out


CASES: dict[Callable[[], nn.Module], dict[str, int]] = {
    # By block: its groups.
    RelativePositions: {
        "stem": 24, "mlp.0": 30, "block.qkv#heads": 3, "block.qkv#widths": 8,
    },
    LearntQueries: {"stem": 24, "mlp.0": 30, "block.k": 24, "block.v": 24},
    Cascaded: {"stem": 12, "mlp.0": 30, "block.layers.0": 4},
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES, ids=lambda kind: kind.__name__)
def case(request: Any) -> tuple[Callable[[], nn.Module], nn.Module, Structure]:
    torch.manual_seed(0)
    model = Net(request.param()).eval()
    return request.param, model, analyze(model, TOKENS)


def test_groups(case: Any) -> None:
    kind, _, structure = case
    assert {one.name: one.size for one in structure.groups} == CASES[kind]
    assert [one.reason for one in structure.frozen] == ["the network's output"]


def test_random_cuts_are_what_the_dense_network_does_without_the_channels(case: Any) -> None:
    _, model, structure = case
    test = CutTest(model, TOKENS)
    for batch, kept in random_cuts(structure):
        assert test.difference(structure, kept, batch) is None


def test_costs_are_those_of_the_cut_network(case: Any, random_cut: Any, count_macs: Any) -> None:
    _, model, structure = case
    costs = cost_models(structure, adds_bias=False)
    small, widths = random_cut(model, structure, 0.5, seed=3)
    assert costs["flops"].total(widths) == count_macs(small, TOKENS)
    assert costs["params"].total(widths) == sum(p.numel() for p in small.parameters())


def test_a_file_cuts_a_fresh_network_alike(case: Any) -> None:
    kind, model, structure = case
    policy = structure.policy([range(0, group.size, 2) for group in structure.groups])
    data = json.loads(json.dumps(policy.to_json()))
    again = Net(kind()).eval()
    again.load_state_dict(model.state_dict())
    other = apply_policy(again, PruningPolicy.from_json(data))
    assert torch.equal(apply_policy(model, policy)(TOKENS), other(TOKENS))

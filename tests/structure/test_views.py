"""Attention that takes its sizes from its input's width: views infer them once it is cut."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from random_cuts import random_cuts
from torch import Tensor, nn

from autoprune.core.policy import PruningPolicy
from autoprune.core.view_sizes import InferredSize
from autoprune.cost import cost_models
from autoprune.errors import ModelError, RunError
from autoprune.profiling.backends.program import program_of
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import apply_policy, deep_copy
from autoprune.structure.tracing.trace import trace
from autoprune.structure.verify import CutTest, analyze
from autoprune.structure.views import infer_sizes

TOKENS = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
WIDTH, HEADS = 24, 3


class Attention(nn.Module):
    """Asks for a last view as wide as what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.qkv, self.norm = nn.Linear(WIDTH, 3 * WIDTH), nn.LayerNorm(WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        out: Tensor = self.proj(self.norm(x))
        return out


class Remembering(Attention):
    """Makes a table of distances in its first forward pass, by views of a range."""

    def __init__(self) -> None:
        super().__init__()
        self.distances: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.distances is None:
            places = torch.arange(x.shape[1])
            self.distances = places.view(1, -1) - places.view(-1, 1)
        out: Tensor = super().forward(x) + self.distances.abs().sum()
        return out


class FromOneToken(nn.Module):
    """Cross attention of the first token, with a view of `c // heads` for each projection."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.scale = HEADS, (WIDTH // HEADS) ** -0.5
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q = self.q(x[:, :1]).reshape(b, 1, self.num_heads, c // self.num_heads).transpose(1, 2)
        k = self.k(x).reshape(b, n, self.num_heads, c // self.num_heads).transpose(1, 2)
        v = self.v(x).reshape((b, n, self.num_heads, c // self.num_heads)).transpose(1, 2)
        weights = (q @ k.mT * self.scale).softmax(-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(b, 1, c))
        return out


class BetweenChannels(nn.Module):
    """Cross-covariance attention: the channels of a head attend to one another."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.temperature = nn.Parameter(torch.full((HEADS, 1, 1), 1.5))
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        heads = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads)
        q, k, v = heads.permute(2, 0, 3, 4, 1).unbind(0)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1)
        out: Tensor = self.proj((weights @ v).permute(0, 3, 1, 2).reshape(b, n, c))
        return out


class ToFewerTokens(nn.Module):
    """Attention to an image of fewer tokens, whose convolution is as wide as what is read."""

    num_heads = HEADS

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.proj = (nn.Linear(WIDTH, n * WIDTH) for n in (1, 2, 1))
        self.fewer, self.norm = nn.Conv2d(WIDTH, WIDTH, 1, (1, 2)), nn.LayerNorm(WIDTH)
        self.heads = self.num_heads

    def forward(self, x: Tensor) -> Tensor:
        b, _, c = x.shape
        q = self.q(x[:, :1]).reshape(b, 1, self.heads, c // self.heads).transpose(1, 2)
        fewer = self.fewer(x.mT.reshape(b, c, 2, 2)).reshape(b, c, -1).mT
        kv = self.kv(self.norm(fewer)).reshape(b, -1, 2, self.heads, c // self.heads)
        k, v = kv.permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, 1, c)
        out: Tensor = self.proj(x)
        return out


class OneHead(ToFewerTokens):
    """Keys and values lie in a table without heads."""

    num_heads = 1


class TalkingHeads(nn.Module):
    """Layers over the heads, in front of the softmax and behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.before, self.behind = nn.Linear(HEADS, HEADS), nn.Linear(HEADS, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        heads = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        weights = self.before((q @ k.mT).permute(0, 2, 3, 1)).softmax(2)
        x = self.behind(weights).permute(0, 3, 1, 2) @ v
        out: Tensor = self.proj(x.transpose(1, 2).reshape(b, n, c))
        return out


class Square(nn.Module):
    """As many heads as channels in each, as a downsampling attention of LeViT may have."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.key_dim, self.val_dim = 4, 4, 6
        self.q, self.kv, self.proj = nn.Linear(24, 16), nn.Linear(24, 40), nn.Linear(24, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x[:, :1]).view(b, 1, self.num_heads, self.key_dim).transpose(1, 2)
        kv = self.kv(x).view(b, n, self.num_heads, -1)
        k, v = kv.split([self.key_dim, self.val_dim], 3)
        weights = (q @ k.permute(0, 2, 3, 1)).softmax(-1)
        out: Tensor = self.proj((weights @ v.transpose(1, 2)).transpose(1, 2).flatten(2))
        return out


class Gated(nn.Module):
    """A gate made of all positions of each channel, as in gMLP."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 40), nn.Linear(20, WIDTH)
        self.norm, self.over_positions = nn.LayerNorm(20), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        kept, gate = self.up(x).chunk(2, dim=-1)
        gate = self.over_positions(self.norm(gate).mT).mT
        out: Tensor = self.down(kept * gate)
        return out


class Net(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.stem, self.norm, self.block = nn.Linear(6, WIDTH), nn.LayerNorm(WIDTH), block
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 30), nn.GELU(), nn.Linear(30, WIDTH))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x[:, :1] + self.block(self.norm(x))
        out: Tensor = self.head((x + self.mlp(x)).mean(1))
        return out


STREAM = {"stem": 24, "mlp.0": 30}
CASES: dict[type[nn.Module], tuple[dict[str, int], set[InferredSize]]] = {
    # By block: its groups, and the sizes that are inferred.
    Attention: (
        {**STREAM, "block.qkv#heads": 3, "block.qkv#widths": 8},
        {InferredSize("block", 1, 2)},
    ),
    Remembering: (
        {**STREAM, "block.qkv#heads": 3, "block.qkv#widths": 8},
        {InferredSize("block", 1, 2)},
    ),
    FromOneToken: (
        {**STREAM, "block.q#heads": 3, "block.q#widths": 8, "block.v#widths": 8},
        {InferredSize("block", view, 3) for view in range(3)} | {InferredSize("block", 3, 2)},
    ),
    BetweenChannels: (
        {**STREAM, "block.qkv#heads": 3},
        {InferredSize("block", 0, 4), InferredSize("block", 1, 2)},
    ),
    ToFewerTokens: (
        {**STREAM, "block.q#heads": 3, "block.q#widths": 8},
        {InferredSize("block", view, dim) for view, dim in ((0, 3), (3, 4), (4, 2))},
    ),
    OneHead: (
        {**STREAM, "block.q": 24},
        {InferredSize("block", view, dim) for view, dim in ((0, 3), (3, 4), (4, 2))},
    ),
    TalkingHeads: (
        {**STREAM, "block.qkv#heads": 3, "block.before": 3, "block.qkv#widths": 8},
        {InferredSize("block", 0, 4), InferredSize("block", 1, 2)},
    ),
    Square: (
        {**STREAM, "block.q#heads": 4, "block.q#widths": 4, "block.kv#widths": 6},
        set(),
    ),
    Gated: ({**STREAM, "block.up": 20}, set()),
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES, ids=lambda kind: kind.__name__)
def case(request: Any) -> tuple[type[nn.Module], nn.Module, Structure]:
    torch.manual_seed(0)
    model = Net(request.param()).eval()
    return request.param, model, analyze(model, TOKENS)


def halved(structure: Structure) -> PruningPolicy:
    return structure.policy([range(0, g.size, 2) for g in structure.groups])


def test_groups_and_inferred_sizes(case: Any) -> None:
    kind, _, structure = case
    groups, inferred = CASES[kind]
    assert {g.name: g.size for g in structure.groups} == groups
    assert set(structure.inferred) == inferred


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
    policy = halved(structure)
    data = json.loads(json.dumps(policy.to_json()))
    assert data["version"] == (2 if structure.inferred or structure.edits else 1)
    again = Net(kind()).eval()
    again.load_state_dict(model.state_dict())
    other = apply_policy(again, PruningPolicy.from_json(data))
    assert torch.equal(apply_policy(model, policy)(TOKENS), other(TOKENS))


def test_a_cut_network_is_copied_pickled_and_exported(case: Any) -> None:
    _, model, structure = case
    small = apply_policy(model, halved(structure))
    wanted = small(TOKENS)
    for other in (copy.deepcopy(small), deep_copy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(other(TOKENS), wanted)
        assert isinstance(other.block, type(model.block))
    program = program_of(small, TOKENS[:2])
    assert program.takes_any_batch
    [exported] = program.exported.module()(TOKENS)
    assert torch.allclose(exported, wanted, atol=1e-6)


def test_a_size_that_is_inferred_changes_nothing_in_the_dense_network() -> None:
    model = Net(FromOneToken()).eval()
    same = copy.deepcopy(model)
    infer_sizes(same, [InferredSize("block", 0, 2), InferredSize("block", 3, 1)])
    infer_sizes(same, [InferredSize("block", 9, 0), InferredSize("block", 1, 7)])  # no such size
    block: Any = same.block
    assert block._inferred_dims == {0: 2, 3: 1, 9: 0, 1: 7}
    assert torch.equal(model(TOKENS), same(TOKENS))
    assert type(model.block) is FromOneToken and type(same.block) is not FromOneToken


class Named(nn.Module):
    """Views by keywords alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.first(x))
        out: Tensor = self.last(torch.reshape(input=inner, shape=inner.shape))
        return out


def test_views_by_keywords_are_views() -> None:
    assert analyze(Named().eval(), torch.randn(4, 6)).dense_widths == (8,)


class Noting(FromOneToken):
    """Calls one more view in training mode, before or after the others, or none."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when = when

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        if self.training and self.when == "before":
            x = x.reshape(b * n, c).reshape(b, n, c)
        out = super().forward(x)
        return out.mul(2).view(b, 1, c) if self.training and self.when == "after" else out


@pytest.mark.parametrize("when", ["before", "after", "never"])
def test_sizes_are_inferred_where_training_calls_the_same_views(when: str) -> None:
    torch.manual_seed(0)
    model = Net(Noting(when)).eval()
    structure = analyze(model, TOKENS)
    assert set(structure.inferred) == (CASES[FromOneToken][1] if when == "never" else set())
    small = apply_policy(model, halved(structure)).train()
    assert small(TOKENS).shape == (3, 5)


class Renamed(FromOneToken):
    """Calls its input by another name."""

    def forward(self, queries: Tensor) -> Tensor:
        return super().forward(queries)


def test_the_names_of_arguments_stay() -> None:
    torch.manual_seed(0)
    model = FromOneToken().eval()
    same: Any = copy.deepcopy(model)
    infer_sizes(same, [InferredSize("", view, 3) for view in range(3)])
    other: Any = Renamed()
    infer_sizes(other, [InferredSize("", 0, 3)])
    assert list(inspect.signature(other.forward).parameters) == ["queries"]
    for other in (same, pickle.loads(pickle.dumps(same))):
        assert inspect.signature(other.forward) == inspect.signature(model.forward)
    tokens = torch.randn(3, 4, WIDTH)
    dynamic = {"x": {0: torch.export.Dim("batch", min=2, max=8)}}
    exported = torch.export.export(same, (tokens,), dynamic_shapes=dynamic).module()
    more = torch.randn(5, 4, WIDTH)
    assert torch.allclose(exported(more), model(more), atol=1e-6)


def test_only_modules_that_are_there_infer_sizes() -> None:
    torch.manual_seed(0)
    model = Net(Attention()).eval()
    data = halved(analyze(model, TOKENS)).to_json()
    policy = PruningPolicy.from_json(data)
    other = PruningPolicy(
        policy.groups, policy.shapes_hash, policy.edits, (), (InferredSize("gone", 0, 0),)
    )
    with pytest.raises(ModelError, match="names the module 'gone', which is not there"):
        apply_policy(model, other)


@pytest.mark.parametrize(
    ("inferred", "version", "message"),
    [
        ([{"module": "block", "view": 0, "dim": 1}], 1, "needs format version 2"),
        ([{"module": "block", "view": 0, "dim": d} for d in (1, 2)], 2, "two sizes of one view"),
        ([{"module": "block", "view": -1, "dim": 1}], 2, "view"),
        ([{"module": "block", "view": 0, "dim": 1, "run": "me"}], 2, "run"),
    ],
)
def test_files_are_read_strictly(inferred: Any, version: int, message: str) -> None:
    data = {"version": version, "fingerprint": "", "shapes": "", "groups": {}, "inferred": inferred}
    with pytest.raises(RunError, match=message):
        PruningPolicy.from_json(data)


def test_a_convolution_along_the_channels_mixes_them() -> None:
    class Neighbours(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Conv1d(1, 1, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.mix(x.mean(1, keepdim=True)).sigmoid()

    structure = trace(Net(Neighbours()).eval(), TOKENS)
    frozen = {one.name: one.reason for one in structure.frozen}
    assert frozen["stem"] == "laid out across the rows that block.mix.weight reads"

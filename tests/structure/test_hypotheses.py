"""Networks that use numbers of their modules: what goes together, and which numbers follow."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.policy import PruningPolicy
from autoprune.cost import cost_models
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import apply_policy
from autoprune.structure.verify import CutTest, analyze

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


class Splitting(nn.Module):
    """A cross-stage block: one half goes through a bottleneck."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.c = width
        self.stem, self.inner, self.out = conv(3, 2 * width), conv(width, width), conv(3 * width, 4)

    def forward(self, x: Tensor) -> Tensor:
        halves = list(self.stem(x).split((self.c, self.c), 1))
        halves.append(self.inner(halves[-1]).relu())
        out: Tensor = self.out(torch.cat(halves, 1))
        return out


class Configured(Splitting):
    """Reads the width from an object that it holds."""

    def __init__(self) -> None:
        super().__init__()
        del self.c
        self.config = SimpleNamespace(c=6, layers=2, name="block")

    def forward(self, x: Tensor) -> Tensor:
        halves = list(self.stem(x).split((self.config.c, self.config.c), 1))
        halves.append(self.inner(halves[-1]).relu())
        out: Tensor = self.out(torch.cat(halves, 1))
        return out


class Doubled(Splitting):
    """Splits at half of a stored width."""

    def __init__(self) -> None:
        super().__init__()
        self.expanded = 12

    def forward(self, x: Tensor) -> Tensor:
        halves = list(self.stem(x).split(self.expanded // 2, dim=1))
        halves.append(self.inner(halves[-1]).relu())
        out: Tensor = self.out(torch.cat(halves, 1))
        return out


class Sizes(nn.Module):
    """Two branches of unlike widths are joined and split again by numbers in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes, self.stride = [4, 5], 4
        self.left, self.right = conv(3, 4), conv(3, 5)
        self.a, self.b = conv(4, 2), conv(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        joint = torch.cat([self.left(x), self.right(x)], 1).relu()
        left, right = joint.split(self.sizes, 1)
        out: Tensor = (self.a(left) + self.b(right))[..., :: self.stride]
        return out


class Pixels(nn.Module):
    """A pixel shuffle written by hand, with a stored width."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.scale = 3, 2
        self.up, self.out = conv(3, 12), conv(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        y = self.up(x).view(b, self.width, self.scale, self.scale, h, w)
        y = y.permute(0, 1, 4, 2, 5, 3).reshape(b, self.width, h * self.scale, w * self.scale)
        out: Tensor = self.out(y.relu())
        return out


class Residual(nn.Module):
    """Two convolutions behind group normalisations, as in diffusion networks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.out = conv(3, 8), conv(8, 12), conv(12, 8), conv(16, 3)
        self.first, self.second = nn.GroupNorm(4, 8), nn.GroupNorm(4, 12)
        self.last = nn.GroupNorm(4, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        inner = self.b(F.silu(self.second(self.a(F.silu(self.first(h))))))
        out: Tensor = self.out(self.last(torch.cat([h, inner], 1)))
        return out


class Shuffling(nn.Module):
    """Two blocks that keep one half, change the other one, and shuffle both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.out = conv(3, 8), conv(4, 4), conv(4, 4), conv(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for layer in (self.a, self.b):
            kept, changed = h.chunk(2, 1)
            h = torch.cat([kept, layer(changed).relu()], 1)
            b, c, height, width = h.shape
            h = h.view(b, 2, c // 2, height, width).transpose(1, 2).reshape(b, c, height, width)
        out: Tensor = self.out(h)
        return out


def decoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 8),
        nn.Flatten(),
        nn.Linear(4, 6 * 16),
        nn.Unflatten(1, (6, 4, 4)),
        conv(6, 2),
    )


class Case(NamedTuple):
    """Expected units by group, and numbers with the shares of a unit."""

    build: Callable[[], nn.Module]
    units: Mapping[str, int]
    edits: Mapping[str, Mapping[str, tuple[int, ...]]]


CASES = {
    "halves by a stored width": Case(Splitting, {"stem": 6, "inner": 6}, {"c": {"stem": (1,)}}),
    "halves by a setting": Case(Configured, {"stem": 6, "inner": 6}, {"config.c": {"stem": (1,)}}),
    "halves by twice a stored width": Case(
        Doubled, {"stem": 6, "inner": 6}, {"expanded": {"stem": (2,)}}
    ),
    "sizes in a list": Case(
        Sizes, {"left": 4, "right": 5}, {"sizes": {"left": (1, 0), "right": (0, 1)}}
    ),
    "pixel shuffle by a stored width": Case(Pixels, {"up": 3}, {"width": {"up": (1,)}}),
    "pixel shuffle": Case(
        lambda: nn.Sequential(conv(3, 12), nn.PixelShuffle(2), conv(3, 3)), {"0": 3}, {}
    ),
    "group normalisation": Case(
        Residual,
        {"stem": 2, "a": 4, "b": 2},
        {
            "first.num_groups": {"stem": (2,)},
            "second.num_groups": {"a": (1,)},
            "last.num_groups": {"stem": (1,), "b": (1,)},
        },
    ),
    "unflatten": Case(decoder, {"0": 4, "2": 6}, {"3.unflattened_size": {"2": (1, 0, 0)}}),
    "shuffled halves": Case(Shuffling, {"stem": 2}, {}),
}


@pytest.fixture(params=list(CASES), scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def model(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return case.build().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def structure(case: Case, model: nn.Module) -> Structure:
    return analyze(model, IMAGES)


def drawn(structure: Structure, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [
        rng.permutation(group.size)[: int(rng.integers(1, group.size + 1))].tolist()
        for group in structure.groups
    ]


def test_what_is_found(case: Case, structure: Structure) -> None:
    assert {group.name: group.size for group in structure.groups} == case.units
    assert {edit.name: edit.per_unit for edit in structure.edits} == case.edits


@pytest.mark.parametrize("seed", range(4))
def test_cut_equals_masked(model: nn.Module, structure: Structure, seed: int) -> None:
    kept = drawn(structure, seed)
    masked: Any = copy.deepcopy(model)
    for group, units in zip(structure.groups, kept, strict=True):
        gone = np.setdiff1d(np.arange(group.size), units)
        for s in group.consumers:
            places = torch.from_numpy(s.positions[gone].reshape(-1))
            masked.get_parameter(s.tensor).index_fill_(s.dim, places, 0.0)
    small = apply_policy(model, structure.policy(kept))
    for batch in (1, 3):
        torch.testing.assert_close(small(IMAGES[:batch]), masked(IMAGES[:batch]))


@pytest.mark.parametrize("keep", [1.0, 0.4])
def test_costs_are_those_of_the_cut_network(
    model: nn.Module, structure: Structure, keep: float, random_cut: Any, count_macs: Any
) -> None:
    small, widths = random_cut(model, structure, keep)
    costs = cost_models(structure, adds_bias=False)
    assert costs["flops"].total(widths) == count_macs(small, IMAGES)
    assert costs["params"].total(widths) == sum(p.numel() for p in small.parameters())


def test_a_file_cuts_a_fresh_network_alike(
    case: Case, model: nn.Module, structure: Structure
) -> None:
    policy = structure.policy(drawn(structure, 0))
    data = json.loads(json.dumps(policy.to_json()))
    assert data["version"] == (2 if case.edits else 1)
    fresh: Any = case.build().eval()
    fresh.load_state_dict(model.state_dict())
    again = apply_policy(fresh, PruningPolicy.from_json(data))
    assert torch.equal(again(IMAGES), apply_policy(model, policy)(IMAGES))


def test_the_cut_network_exports(model: nn.Module, structure: Structure) -> None:
    small = apply_policy(model, structure.policy(drawn(structure, 1)))
    program = torch.export.export(small, (IMAGES,))
    torch.testing.assert_close(program.module()(IMAGES), small(IMAGES))


def test_a_size_in_the_code_freezes_its_group(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        first, second = m.stem(x).split((6, 6), 1)
        return m.out(first * 2 - second.relu())  # type: ignore[no-any-return]

    structure = analyze(net(forward, stem=conv(3, 12), out=conv(6, 2)), IMAGES)
    assert (structure.groups, structure.edits) == ((), ())
    assert "once it is cut" in {f.name: f.reason for f in structure.frozen}["stem"]


def test_numbers_that_only_look_alike_stay() -> None:
    class Alike(Splitting):
        """Has two more numbers of the same value: one unused, one a size of the image."""

        def __init__(self) -> None:
            super().__init__(width=8)
            self.classes, self.side = 8, 8

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[..., : self.side]

    structure = analyze(Alike().eval(), IMAGES)
    assert [(edit.name, edit.per_unit) for edit in structure.edits] == [("c", {"stem": (1,)})]


class Repeated(Splitting):
    """As the halves of a cross-stage block, with as many channels behind it as before it."""

    def __init__(self) -> None:
        super().__init__()
        self.out = conv(18, 3)


def test_repeated_blocks_are_tested_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more block is one more test, and the number in each follows."""
    agrees, tests = CutTest.agrees, list[int]()

    def counted(self: CutTest, structure: Structure, groups: Any) -> bool:
        tests[-1] += 1
        return agrees(self, structure, groups)

    monkeypatch.setattr(CutTest, "agrees", counted)
    for blocks in (2, 7):
        tests.append(0)
        model = nn.Sequential(*(Repeated() for _ in range(blocks))).eval()
        structure = analyze(model, IMAGES)
        assert {edit.module for edit in structure.edits} == {str(i) for i in range(blocks)}
        small = apply_policy(model, structure.policy(drawn(structure, 0)))
        assert small(IMAGES).shape == model(IMAGES).shape
    assert tests[1] - tests[0] <= 7 - 2


def test_blocks_that_only_look_repeated_are_tested_one_by_one() -> None:
    """One of them splits at a size in the code, which does not follow."""

    class Fixed(Repeated):
        def forward(self, x: Tensor) -> Tensor:
            halves = list(self.stem(x).split((6, 6), 1))
            halves.append(self.inner(halves[-1]).relu())
            out: Tensor = self.out(torch.cat(halves, 1))
            return out

    model = nn.Sequential(Repeated(), Repeated(), Fixed(), Repeated()).eval()
    structure = analyze(model, IMAGES)
    assert {edit.module for edit in structure.edits} == {"0", "1", "3"}
    frozen = {f.name.partition(".")[0] for f in structure.frozen if "once it is cut" in f.reason}
    assert frozen == {"2"}


class Joined(nn.Module):
    """Joins two branches and splits them again by a number."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.a, self.b, self.out = 6, conv(3, 6), conv(3, 6), conv(12, 3)

    def pieces(self, b: Tensor) -> tuple[int, int]:
        return self.c, self.c

    def branch(self, x: Tensor, image: Tensor) -> Tensor:
        return self.b(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        b = self.branch(x, image)
        first, second = torch.cat([self.a(x), b], 1).split(self.pieces(b), 1)
        return self.out(torch.cat([first.relu(), second.sigmoid()], 1))  # type: ignore[no-any-return]


class Measuring(Joined):
    """Splits at the widths that are there."""

    def pieces(self, b: Tensor) -> tuple[int, int]:
        return self.a.weight.shape[0], b.shape[1]


class Blocked(Joined):
    """One branch has the channels of the image added."""

    def pieces(self, b: Tensor) -> tuple[int, int]:
        return self.c, b.shape[1]

    def branch(self, x: Tensor, image: Tensor) -> Tensor:
        return self.b(x) + torch.cat([image, image], 1)  # type: ignore[no-any-return]


class Chain(nn.Module):
    """Blocks one after the other, and a number that equals one of theirs."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks, self.c = nn.ModuleList(blocks), 6

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for block in self.blocks:
            x = block(x, image)
        return x if not self.training else x[:, : self.c]


@pytest.mark.parametrize(
    ("kinds", "groups"),
    [
        ((Joined, Joined, Joined), [1, 1, 1]),
        ((Joined, Measuring), [1, 2]),
        ((Joined, Joined, Blocked), [1, 1, 1]),
    ],
)
def test_blocks_of_one_shape_keep_what_each_can_lose(
    kinds: tuple[type[nn.Module], ...], groups: list[int]
) -> None:
    """What holds in one is not forced on others, nor on a number around them."""
    structure = analyze(Chain(*(kind() for kind in kinds)).eval(), IMAGES)
    names = [group.name for group in structure.groups if not group.name.endswith("out")]
    assert [sum(f"blocks.{i}." in name for name in names) for i in range(len(kinds))] == groups
    followed = {edit.module for edit in structure.edits}
    assert followed == {f"blocks.{i}" for i, kind in enumerate(kinds) if kind is not Measuring}

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.structure.groups import ChannelGroup, Structure
from autoprune.structure.trace import trace
from autoprune.structure.verify import CutTest, analyze

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def chain() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 2, 3)
    ).eval()


def broken(structure: Structure, change: Any) -> tuple[Structure, ChannelGroup]:
    """Replace the positions of one consumer of the first group."""
    group = structure.groups[0]
    slices = tuple(
        replace(s, positions=change(s.positions)) if s.role == "consumer" else s
        for s in group.slices
    )
    wrong = replace(group, slices=slices)
    return replace(structure, groups=(wrong, *structure.groups[1:])), wrong


def difference(structure: Structure, group: ChannelGroup) -> str | None:
    """Cut half of one group's units, an odd number."""
    rng = np.random.default_rng(0)
    kept = sorted(rng.permutation(group.size)[group.size // 2 | 1 :].tolist())
    return CutTest(chain(), IMAGES).difference(structure, {group.name: kept})


def test_right_structure_passes() -> None:
    structure = trace(chain(), IMAGES)
    for group in structure.groups:
        assert difference(structure, group) is None


@pytest.mark.parametrize("seed", range(5))
def test_permuted_channels_are_noticed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    structure, group = broken(trace(chain(), IMAGES), rng.permutation)
    assert difference(structure, group) is not None


def test_positions_shared_by_two_groups_are_noticed() -> None:
    structure, group = broken(trace(chain(), IMAGES), lambda p: p // 2)
    assert difference(structure, group) is not None


def test_groups_wrong_only_together_lose_the_culprit(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        a, b = m.a(x), m.b(x)
        if a.shape[1] < 6 and b.shape[1] < 6:
            b = b * 2
        out: Tensor = m.out(torch.cat([a, b], 1))
        return out

    model = net(forward, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(3, 6, 1), out=nn.Conv2d(12, 2, 1))
    structure = analyze(model, IMAGES)
    assert [g.name for g in structure.groups] == ["a"]
    assert structure.frozen[-1].name == "b"
    assert structure.frozen[-1].reason.startswith("together with other groups, ")


def test_failing_forward_gives_its_own_message(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        raise ValueError("expected 5 channels\nand more")

    with pytest.raises(ModelError, match=r"\(1, 3, 8, 8\).*ValueError: expected 5 channels$"):
        analyze(net(forward), IMAGES)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    model = chain()
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = value
    with pytest.raises(ModelError, match=r"NaN or infinity in '3\.weight'"):
        analyze(model, IMAGES)


def test_overflow_of_finite_weights_is_told_apart() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    nn.init.constant_(model[0].weight, 1e30)
    nn.init.constant_(model[1].weight, 1e30)
    with pytest.raises(ModelError, match="example inputs make them overflow"):
        analyze(model, torch.ones(2, 4))


def test_progress_and_fast_path_are_kept() -> None:
    seen: list[tuple[int, int]] = []
    torch.backends.mha.set_fastpath_enabled(True)
    analyze(chain(), IMAGES, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 7) for i in range(7)]
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_of_examples_gives_the_same_structure(batch: int) -> None:
    images = torch.randn(batch, 3, 8, 8)
    structure = analyze(chain(), images)
    assert [(g.name, g.size) for g in structure.groups] == [("0", 8), ("3", 6)]
    assert [layer.positions for layer in structure.layers] == [36, 16, 4]

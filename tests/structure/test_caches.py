"""What modules keep from earlier forward passes does not get into cut networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoprune.structure.caches import drop_caches, has_caches
from autoprune.structure.surgery import apply_policy, deep_copy
from autoprune.structure.verify import analyze

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Keeping(nn.Module):
    """Keeps a table by device in evaluation mode, as attention biases are in timm's LeViT."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(6))
        self.kept: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if mode:
            self.kept = {}
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x * self.scale[:, None, None]
        return x * self.kept.setdefault("cpu", self.scale[:, None, None] * 1)


class Constants(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kept = {"mean": torch.ones(())}


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 1), Keeping(), nn.Conv2d(6, 4, 1)).eval()


def test_a_network_that_has_run_is_cut_like_a_fresh_one() -> None:
    model = network()
    model(IMAGES)
    structure = analyze(model, IMAGES)
    assert [group.name for group in structure.groups] == ["0"]
    policy = structure.policy([[1, 4]])
    small = apply_policy(model, policy)
    assert model[1].kept["cpu"].shape == (6, 1, 1)
    assert torch.equal(small(IMAGES), apply_policy(network(), policy)(IMAGES))


def test_copies_keep_nothing_and_stay_in_their_mode() -> None:
    model = network()
    model(IMAGES)
    copied = deep_copy(model)
    assert has_caches(model) and not has_caches(copied)
    assert not any(module.training for module in copied.modules())


def test_constants_stay() -> None:
    model = nn.Sequential(Constants())
    drop_caches(model)
    assert not has_caches(model) and "mean" in model[0].kept


class MadeForEvaluation(nn.Module):
    """Has a table in evaluation mode only, and a buffer, as the authors' LeViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(6))
        self.register_buffer("places", torch.arange(6))

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if mode and hasattr(self, "table"):
            del self.table
        elif not mode:
            self.table = self.scale[self.places].detach()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.scale[self.places] if self.training else self.table)[:, None, None]


class Both(MadeForEvaluation):
    def __init__(self) -> None:
        super().__init__()
        self.kept = {"cpu": torch.ones(())}


def test_buffers_are_no_caches_and_what_is_made_for_evaluation_is_there() -> None:
    assert not has_caches(MadeForEvaluation().eval())
    model = nn.Sequential(nn.Conv2d(3, 6, 1), Both(), nn.Conv2d(6, 4, 1)).eval()
    assert has_caches(model)
    copied = deep_copy(model)
    assert not copied.training and torch.equal(copied(IMAGES), model(IMAGES))

"""Channels that are normalised together: their streams are cut, and statistics are of the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.structure.mixed import columns_left, run_on
from autoprune.structure.mixers import Mixer
from autoprune.structure.surgery import apply_policy
from autoprune.structure.verify import CutTest, analyze

TOKENS = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
KEPT = [0, 3, 4, 7]


class ByHand(nn.Module):
    """Root mean square normalisation as language models write it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 2.0, size))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt())


class Standardised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1).sqrt()


NORMS = {
    "LayerNorm": lambda: nn.LayerNorm(8),
    "without bias": lambda: nn.LayerNorm(8, bias=False),
    "without weights": lambda: nn.LayerNorm(8, elementwise_affine=False),
    "RMSNorm": lambda: nn.RMSNorm(8),
    "by hand": lambda: ByHand(8),
    "standardised": Standardised,
}


def between(norm: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    for parameter in norm.parameters():
        parameter.data.normal_()
    return nn.Sequential(nn.Linear(5, 8), norm, nn.Linear(8, 6)).eval()


@pytest.mark.parametrize("name", NORMS)
def test_a_cut_stream_is_normalised_over_what_is_left(name: str) -> None:
    model = between(NORMS[name]())
    structure = analyze(model, TOKENS)
    (group,) = structure.groups
    assert (group.name, group.size, bool(structure.rescaled_by(group))) == ("0", 8, True)
    small: Any = apply_policy(model, structure.policy([KEPT]))

    first, norm, last = model
    norm_of_four = between(NORMS[name]())[1]
    for key, parameter in norm.named_parameters():
        setattr(norm_of_four, key, nn.Parameter(parameter[KEPT]))
    if hasattr(norm, "normalized_shape"):
        norm_of_four.normalized_shape = (4,)
        assert small[1].normalized_shape == (4,)
        assert norm.normalized_shape == (8,)
    expected = norm_of_four(first(TOKENS)[..., KEPT]) @ last.weight[:, KEPT].T + last.bias
    assert torch.allclose(small(TOKENS), expected, atol=1e-6)


def test_one_group_of_a_group_normalisation_is_a_layer_normalisation() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), nn.ReLU(), nn.Conv2d(8, 4, 1)
    ).eval()
    structure = analyze(model, IMAGES)
    (group,) = structure.groups
    assert structure.rescaled_by(group) == ("group_norm",)
    small: Any = apply_policy(model, structure.policy([KEPT]))
    assert (small[1].num_groups, small[1].num_channels) == (1, 4)
    own = F.group_norm(model[0](IMAGES)[:, KEPT], 1)
    expected = F.conv2d(own.relu(), model[3].weight[:, KEPT], model[3].bias)
    assert torch.allclose(small(IMAGES), expected, atol=1e-6)


def test_a_norm_that_still_sees_all_channels_is_found_out(net: Any) -> None:
    """Statistics of the dense width, as a constant."""
    model = net(
        lambda m, x: m.b(m.a(x) - m.a(x).sum(-1, keepdim=True) / 8),
        a=nn.Linear(5, 8),
        b=nn.Linear(8, 6),
    )
    structure = analyze(model, TOKENS)
    assert not structure.groups


def test_groups_of_one_normalisation_see_each_other(net: Any) -> None:
    """Both branches are normalised in one row, each with what is left of the other."""
    model = net(
        lambda m, x: m.out(m.norm(torch.cat([m.a(x), m.b(x)], -1))),
        a=nn.Linear(5, 8),
        b=nn.Linear(5, 3),
        norm=nn.LayerNorm(11),
        out=nn.Linear(11, 4),
    )
    structure = analyze(model, TOKENS)
    assert {group.name: group.size for group in structure.groups} == {"a": 8, "b": 3}
    test = CutTest(model, TOKENS)
    assert test.difference(structure, {"a": [0, 5, 6], "b": [1]}, 3) is None


class TestColumns:
    MIXER = Mixer("layer_norm 1", "layer_norm", 0, 0, (1, 4), arguments={"input": -1, "weight": 0},
                  out_dim=-1)  # fmt: skip

    def test_cut_columns_of_the_result_are_zero(self) -> None:
        x, weight = torch.tensor([[1.0, 100.0, 3.0, 100.0]]), torch.tensor([2.0, 9.0, 3.0, 9.0])
        columns = torch.tensor([0, 2])
        norm = torch.ops.aten.layer_norm.default
        out = run_on(self.MIXER, columns, norm, (x, [4], weight, None, 0.0), {})
        assert out.tolist() == [[-2.0, 0.0, 3.0, 0.0]]

    def test_whole_operators_are_left_out(self) -> None:
        structure = analyze(between(nn.LayerNorm(8)), TOKENS)
        assert columns_left(structure, {"0": range(8)}) == {}
        ((_, (_, columns)),) = columns_left(structure, {"0": KEPT}).items()
        assert columns.tolist() == KEPT

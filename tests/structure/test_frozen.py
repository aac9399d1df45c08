"""What patterns name, why excluded groups are frozen, and what may then still change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.errors import UsageError
from autoprune.structure.frozen import excluded_tensors, freeze_excluded, frozen_tensors
from autoprune.structure.tracing.trace import trace


class Residual(nn.Module):
    """A stream of two additions, a depthwise layer, tied weights and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.a1, self.a2 = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.b1, self.depthwise = nn.Conv2d(8, 10, 1), nn.Conv2d(10, 10, 3, groups=10)
        self.b2 = nn.Conv2d(10, 12, 1)
        self.tied = nn.Conv2d(12, 12, 1)
        self.again = nn.Conv2d(12, 12, 1)
        self.again.weight = self.tied.weight
        self.head = nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 4))

    def forward(self, x: Any) -> Any:
        x = F.relu(self.bn(self.stem(x)))
        x = x + self.a2(F.relu(self.a1(x)))
        x = F.relu(self.b2(F.relu(self.depthwise(self.b1(x)))))
        x = self.again(F.relu(self.tied(x)))
        return self.head(x.mean((2, 3)))


MODEL = Residual().eval()
IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("head", {"head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"}),
        ("head.*", {"head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"}),
        ("head.0", {"head.0.weight", "head.0.bias"}),
        ("h*.2", {"head.2.weight", "head.2.bias"}),
        ("bn", {f"bn.{k}" for k in ("weight", "bias", "running_mean", "running_var")}),
        ("again", {"tied.weight", "again.bias"}),  # under the name that the tied tensor goes by
        ("a2.bias", {"a2.bias"}),
    ],
)
def test_a_pattern_names_modules_and_all_inside(pattern: str, names: set[str]) -> None:
    found = excluded_tensors(MODEL, [pattern])
    assert found - {"bn.num_batches_tracked"} == names


def test_patterns_that_name_nothing_are_refused_with_the_nearest_name() -> None:
    assert excluded_tensors(MODEL, ["*"]) == {*dict(MODEL.named_parameters())} | {
        *dict(MODEL.named_buffers())
    }
    for pattern in ("hed", "head.O"):
        with pytest.raises(UsageError, match=rf"no layer matches '{pattern}'; did you mean 'head"):
            excluded_tensors(MODEL, ["bn", pattern])


@pytest.mark.parametrize(
    ("pattern", "reasons"),
    [
        ("a1", {"a1": "excluded", "stem": "feeds a1, which is excluded"}),
        ("a2", {"stem": "shares its channels with a2, which is excluded", "a1": "feeds a2, *"}),
        ("bn", {"stem": "runs through bn, which is excluded"}),
        ("depthwise", {"b1": "runs through depthwise, which is excluded"}),
        ("head", {"head.0": "excluded", "b2": "feeds head.0, which is excluded"}),
        ("nothing", {}),
    ],
)
def test_inputs_and_outputs_of_excluded_modules_stay(pattern: str, reasons: dict[str, str]) -> None:
    structure = trace(MODEL, IMAGES)
    excluded = excluded_tensors(MODEL, [pattern] if pattern != "nothing" else [])
    frozen = freeze_excluded(structure, excluded)
    told = {f.name: f.reason for f in frozen.frozen[len(structure.frozen) :]}
    assert {name: told[name] for name in reasons} == {
        name: reason.replace("*", "which is excluded") for name, reason in reasons.items()
    }
    for group in frozen.groups:
        assert not excluded & {s.tensor for s in group.slices}
    assert len(frozen.groups) + len(told) == len(structure.groups)


def test_what_is_frozen_is_what_is_not_trained() -> None:
    model = Residual().eval()
    model.bn.requires_grad_(False)
    model.again.weight.requires_grad_(False)
    assert frozen_tensors(model) == {"bn.weight", "bn.bias", "tied.weight"}


def test_layers_with_fixed_values_are_not_refitted() -> None:
    structure = trace(MODEL, IMAGES).leaving({"a1.weight", "b1.bias"})
    able = {layer.name for layer in structure.layers if layer.refittable}
    assert able == {"stem", "a2", "b2", "head.0", "head.2"}  # nor tied ones of two biases
    both = structure.leaving({"b2.weight"})
    assert both.untouched == {"a1.weight", "b1.bias", "b2.weight"}
    assert not both.layer_of_weight["b1.weight"].refittable


def test_statistics_that_stay_take_up_nothing() -> None:
    """The layer in front needs a bias for the mean that it loses; the clamp is out of its sight."""
    layers = trace(MODEL, IMAGES).layer_of_weight
    assert layers["stem.weight"].batchnorm == "bn" and layers["stem.weight"].clamp == (0, torch.inf)
    stem = layers["stem.weight"].with_untouched(excluded_tensors(MODEL, ["bn"]))
    assert (stem.batchnorm, stem.shortcut, stem.clamp) == (None, None, None)
    assert stem.refittable and stem.takes_bias and not stem.absorbs_mean

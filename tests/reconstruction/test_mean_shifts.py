"""Means of branches that are gone: the network is the dense one whose branches give their means."""

from __future__ import annotations

import pytest
import torch
from residuals import IMAGES, linear
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.reconstruction.layerwise import layers_left
from autoprune.reconstruction.mean_shifts import BranchMeans
from autoprune.statistics.branch_means import branch_means
from autoprune.structure.branches import Branch
from autoprune.structure.depth import with_branches
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import cut, kept_positions
from autoprune.structure.verify import analyze

SAMPLES = Samples(IMAGES, None)


@pytest.fixture(scope="module")
def structure() -> Structure:
    return with_branches(linear(), IMAGES, analyze(linear(), IMAGES))


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(IMAGES)
    return out


def test_means_are_taken_over_all_samples_and_positions(structure: Structure) -> None:
    model = linear()
    seen: list[Tensor] = []
    model.blocks[1].bn2.register_forward_hook(lambda m, args, out: seen.append(out))
    outputs(model)
    means = branch_means(linear(), structure, SAMPLES)
    (mean,) = (value for branch, value in means.items() if branch.bypasses[0].module == "blocks.1")
    torch.testing.assert_close(mean, seen[0].double().mean((0, 2, 3)))


def test_the_layer_before_takes_the_mean_over(structure: Structure) -> None:
    model = linear()
    branch = structure.branches[1]
    assert branch.receiver == "blocks.0.conv2.weight"
    means = branch_means(model, structure, SAMPLES)
    small = without(model, structure, [branch], means)
    wanted = linear()
    bn = wanted.blocks[1].bn2
    nn.init.zeros_(bn.weight)
    with torch.no_grad():
        bn.bias.copy_(means[branch])
    torch.testing.assert_close(outputs(small), outputs(wanted))


def test_who_takes_over_may_be_gone_itself(structure: Structure) -> None:
    """The stem stands before a ReLU, which lets means below zero pass unchanged."""
    model = linear()
    stem = model.get_parameter("stem.bias").detach().clone()
    means = {
        branch: torch.full((6,), -0.1 * (i + 1)).double()
        for i, branch in enumerate(structure.branches)
    }
    small = without(model, structure, structure.branches, means)
    torch.testing.assert_close(small.get_parameter("stem.bias").detach(), stem - 0.3)


def test_untouched_layers_take_nothing_over(structure: Structure) -> None:
    model = linear()
    means = branch_means(model, structure, SAMPLES)
    untouched = structure.leaving(frozenset({"blocks.0.bn2.bias"}))
    taken = BranchMeans(model, untouched, means).absorbed([structure.branches[1]], {}, {})
    assert not taken


def without(
    model: nn.Module, structure: Structure, gone: list[Branch] | tuple[Branch, ...], means: dict
) -> nn.Module:
    groups = {branch.group for branch in gone}
    sizes = zip(structure.index, structure.dense_widths, strict=True)
    policy = structure.policy([range(0 if name in groups else size) for name, size in sizes])
    keep = kept_positions(model, policy)
    weights = BranchMeans(model, structure, means).absorbed(gone, keep, {})
    return cut(model, keep, weights, bypasses=policy.bypasses)


def test_shortcuts_are_those_that_are_left(structure: Structure) -> None:
    """With the first block gone, the second one adds to what the stem made."""
    first, second = structure.branches
    layers = structure.layer_of_weight
    assert layers["blocks.1.conv2.weight"].shortcut == first.result
    left = layers_left(layers, [first])
    assert left.keys() == layers.keys() - {"blocks.0.conv1.weight", "blocks.0.conv2.weight"}
    assert left["blocks.1.conv2.weight"].shortcut == first.shortcut
    assert second.shortcut == first.result

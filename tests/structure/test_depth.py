"""Residual branches that can go: which are found, and that the network without them is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from residuals import IMAGES, Block, Net, after, basic, before, read_twice, scaled, trained
from torch import Tensor, nn

from autoprune.core.policy import PruningPolicy
from autoprune.errors import ModelError
from autoprune.structure.depth import with_branches
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import apply_policy
from autoprune.structure.verify import analyze


def structure_of(model: nn.Module) -> Structure:
    return with_branches(model, IMAGES, analyze(model, IMAGES))


def without(structure: Structure, *groups: str) -> PruningPolicy:
    sizes = zip(structure.index, structure.dense_widths, strict=True)
    return structure.policy([range(0 if name in groups else size) for name, size in sizes])


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(IMAGES)
    return out


def silenced(model: nn.Module, *batchnorms: str) -> Tensor:
    """Return the outputs with BNs that give zero."""
    for path in batchnorms:
        bn = model.get_submodule(path)
        assert isinstance(bn, nn.BatchNorm2d)
        nn.init.zeros_(bn.weight)
        nn.init.zeros_(bn.bias)
    return outputs(model)


def test_blocks_go_and_leave_their_projections() -> None:
    structure = structure_of(basic())
    found = [
        (bypass.module, bypass.through, one.groups)
        for one in structure.branches
        for bypass in one.bypasses
    ]
    assert found == [
        ("blocks.0", (), ("blocks.0.conv1",)),
        ("blocks.1", ("project", "relu"), ("blocks.1.conv1",)),
        ("blocks.2", (), ("blocks.2.conv1",)),
    ]
    assert structure.branches[1].weights == ("blocks.1.conv1.weight", "blocks.1.conv2.weight")
    assert structure.branches[1].receiver == "blocks.1.project.0.weight"
    # Nothing adds to the stream in between but the projection.
    assert structure.branches[2].receiver == "blocks.1.project.0.weight"


@pytest.mark.parametrize("gone", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_the_rest_computes_the_sum_without_the_branch(gone: tuple[int, ...]) -> None:
    structure = structure_of(basic())
    small = apply_policy(basic(), without(structure, *(f"blocks.{i}.conv1" for i in gone)))
    wanted = silenced(basic(), *(f"blocks.{i}.bn2" for i in gone))
    torch.testing.assert_close(outputs(small), wanted)
    left = [name for name in small.state_dict() if "conv" in name]
    assert not any(name.startswith(f"blocks.{i}.") for name in left for i in gone)


def test_a_structure_has_no_branches_unless_asked() -> None:
    assert not analyze(basic(), IMAGES).branches


def test_every_group_inside_goes_with_the_branch() -> None:
    class Bottleneck(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + self.c(F.relu(self.b(F.relu(self.a(x)))))
            return out

    model = trained(Net(Bottleneck()))
    structure = structure_of(model)
    (branch,) = structure.branches
    assert branch.group == "blocks.0.b" and branch.groups == ("blocks.0.a", "blocks.0.b")
    policy = without(structure, "blocks.0.b")
    assert policy.kept["blocks.0.a"] == policy.kept["blocks.0.b"] == ()
    assert PruningPolicy.from_json(policy.to_json()).bypasses == policy.bypasses


def test_in_a_block_that_does_more_the_branch_gives_zeros() -> None:
    def model() -> nn.Module:
        return trained(Net(Block(scaled)))

    structure = structure_of(model())
    (branch,) = structure.branches
    assert all(bypass.zero for bypass in branch.bypasses)
    assert [bypass.module.rpartition(".")[2] for bypass in branch.bypasses] == [
        *("conv1", "bn1", "relu", "conv2", "bn2")
    ]
    small = apply_policy(model(), without(structure, "blocks.0.conv1"))
    torch.testing.assert_close(outputs(small), silenced(model(), "blocks.0.bn2"))
    assert not any("conv" in name for name in small.state_dict())


def test_a_branch_that_is_read_twice_stays() -> None:
    assert not structure_of(trained(Net(Block(read_twice)))).branches


def test_a_module_of_which_others_want_more_than_its_output_stays() -> None:
    class Curious(Net):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            return out * float(self.blocks[0].conv1.out_channels > 0)

    assert not structure_of(trained(Curious(Block(before)))).branches


def test_a_module_that_runs_twice_stays() -> None:
    class Twice(Net):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.blocks(self.blocks(self.stem(x))).mean((2, 3)))
            return out

    assert not structure_of(trained(Twice(Block(before)))).branches


def test_excluded_layers_stay() -> None:
    model = basic()
    structure = with_branches(model, IMAGES, analyze(model, IMAGES), {"blocks.0.bn2.weight"})
    assert [one.bypasses[0].module for one in structure.branches] == ["blocks.1", "blocks.2"]


@pytest.mark.parametrize("make", [basic, lambda: trained(Net(Block(after))).double()])
def test_the_network_is_left_alone(make: Callable[[], nn.Module]) -> None:
    model = make()
    before_it = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = IMAGES.to(next(model.parameters()).dtype)
    assert with_branches(model, inputs, analyze(model, inputs)).branches
    assert all(torch.equal(tensor, before_it[n]) for n, tensor in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_policy_of_another_network_is_refused() -> None:
    structure = structure_of(basic())
    policy = without(structure, "blocks.1.conv1")
    other = basic()
    other.blocks[1].proj = other.blocks[1].project
    parameters = dict(other.named_parameters())
    del other.blocks[1].project
    assert parameters
    with pytest.raises(ModelError, match="made for another network"):
        apply_policy(other, policy)

"""What a structure says of itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.structure.groups import Structure, TrainingOnly
from autoprune.structure.tracing.trace import trace


@pytest.fixture
def structure() -> Structure:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 9, 2),
    )
    return trace(model.eval(), torch.zeros(1, 3, 5, 5))


def test_groups_and_who_reads_them(structure: Structure) -> None:
    assert structure.dense_widths == (4, 6) and structure.index == {"0": 0, "3": 1}
    assert structure.feeds == {"3.weight": (0,), "6.weight": (1,)}
    assert structure.groups[0].producers == ("0.weight",)
    (reader,) = structure.groups[1].consumers
    assert reader.positions.shape == (6, 9)  # a channel with its nine inputs


def test_layers(structure: Structure) -> None:
    conv, _, linear = structure.layers
    assert (conv.positions, conv.space, conv.runs) == (9, (3, 3), 1.0)
    assert (linear.space, linear.out_dim, linear.is_transposed) == ((), 0, False)
    assert conv.batchnorm == "1" and conv.absorbs_mean and conv.clamp == (0, float("inf"))
    assert structure.layer_of_weight["6.weight"] is linear


def test_tensors_that_keep_their_values_add_up(structure: Structure) -> None:
    once = structure.leaving({"3.weight"})
    twice = once.leaving({"1.running_mean"})
    assert twice.untouched == {"3.weight", "1.running_mean"}
    assert not once.layer_of_weight["3.weight"].refittable
    assert once.layer_of_weight["0.weight"].batchnorm == "1"
    assert twice.layer_of_weight["0.weight"].batchnorm is None
    assert structure.layer_of_weight["3.weight"].refittable


def test_freezing_keeps_the_other_groups(structure: Structure) -> None:
    found = structure.frozen_by({"0": "a reason"})
    assert [group.name for group in found.groups] == ["3"]
    assert (found.frozen[-1].name, found.frozen[-1].reason) == ("0", "a reason")
    assert structure.frozen_by({}) is structure


def test_policy_keeps_sorted_units(structure: Structure) -> None:
    policy = structure.policy([[2, 0], range(6)])
    assert policy.groups["0"].kept == (0, 2) and policy.groups["0"].size == 4
    assert policy.shapes_hash == structure.leaving({"3.weight"}).policy([[0], [0]]).shapes_hash


def test_notes_for_further_training(structure: Structure) -> None:
    training = TrainingOnly(
        structure.layers[:1], "ValueError: no", ("aux.weight",), {"3": "it fails"}
    )
    layers, unseen, wrong = training.notes()
    assert layers.endswith("cut along with what they read: 0")
    assert "it fails in training mode: ValueError: no" in unseen and unseen.endswith(": aux")
    assert wrong.startswith("once group 3 is cut") and wrong.endswith("it fails")
    assert not list(TrainingOnly().notes())

"""Scripts of forward passes: what is alive, what is written, where networks differ."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.evaluation.replay.script import Given, Made, NotReplayable, Script, StandIn, record
from autoprune.structure.surgery import named_tensors

INPUTS = torch.ones(2, 3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        out: Tensor = F.relu(self.b(hidden)).add_(hidden)
        return out


@pytest.fixture
def script() -> Script:
    with torch.no_grad():
        return record(Net().eval(), INPUTS)


def names(script: Script) -> list[str]:
    return [step.func.overloadpacket.__name__ for step in script.steps]


def test_steps_and_their_sources(script: Script) -> None:
    assert names(script) == ["linear", "linear", "relu", "add_"]
    assert list(script.steps[0].reads(Given)) == [
        Given("input 0"),
        Given("a.weight"),
        Given("a.bias"),
    ]
    assert list(script.steps[3].reads(Made)) == [Made(2, 0), Made(0, 0)]


def test_results_live_until_they_are_read_last(script: Script) -> None:
    alive = [number for number in range(6) if script.is_alive(Made(0, 0), number)]
    assert alive == [1, 2, 3]
    assert script.live_bytes(2) == 2 * (2 * 4 * 4) and script.live_bytes(0) == 0


def test_memory_written_in_place(script: Script) -> None:
    assert script.overwritten(0) == {Made(2, 0)} and script.overwritten(4) == set()


def test_the_first_change_is_the_first_operator_of_a_changed_tensor(script: Script) -> None:
    base, other = Net(), Net()
    tensors = named_tensors(base)
    assert script.first_change(tensors, named_tensors(other)) == len(script.steps)
    with torch.no_grad():
        other.b.bias[0] += 1
    assert script.first_change(tensors, named_tensors(other)) == 1
    smaller = copy.deepcopy(base)
    smaller.a = nn.Linear(3, 3)
    assert script.first_change(tensors, named_tensors(smaller)) == 0


def test_random_operators_are_not_skipped() -> None:
    class Noisy(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(F.dropout(x, 0.5, training=True))

    with torch.no_grad():
        script = record(Noisy(), INPUTS)
    tensors = named_tensors(Noisy())
    assert script.first_change(tensors, tensors) == 0


def test_operators_behind_a_value_that_python_reads_are_not_skipped() -> None:
    class Branches(Net):
        def forward(self, x: Tensor) -> Any:
            hidden = self.a(x)
            return hidden if hidden.sum().item() > 0 else -hidden

    with torch.no_grad():
        script = record(Branches(), INPUTS)
    tensors = named_tensors(Branches())
    assert names(script)[:3] == ["linear", "sum", "item"]
    assert script.first_change(tensors, tensors) == 2


def test_stand_ins_are_read_by_no_operator_outside(script: Script) -> None:
    (stand_in,) = script.steps[0].results
    assert isinstance(stand_in, StandIn) and stand_in.shape == (2, 4)
    with pytest.raises(NotReplayable):
        stand_in + 1

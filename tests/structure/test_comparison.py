"""Comparison of a cut network with the dense one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoprune.structure.comparison import Recording, RecordingMode, Tolerance, find_difference
from autoprune.structure.surgery import named_tensors
from autoprune.structure.tracing.operators import whole_operators
from autoprune.structure.tracing.trace import trace

TOLERANCE = Tolerance(relative=1e-3, floor=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "agree"),
    [
        ([[1.0, 100.0]], [[1.0005, 100.0]], True),
        ([[1.0, 100.0]], [[1.01, 100.0]], False),  # small beside the tensor, not its channel
        ([[0.0, 100.0]], [[5e-5, 100.0]], True),  # the floor is a share of the largest value
        ([[torch.inf, torch.nan]], [[torch.inf, torch.nan]], True),
        ([[torch.inf, 1.0]], [[-torch.inf, 1.0]], False),
    ],
)
def test_tolerance_is_a_share_of_the_channel(
    a: list[list[float]], b: list[list[float]], agree: bool
) -> None:
    columns = torch.tensor(a), torch.tensor(b)
    assert TOLERANCE.agree(*columns, dims=[1]) is agree


def test_few_integers_may_differ() -> None:
    labels = torch.arange(200)
    one, many = labels.clone(), labels.clone()
    one[0] = 7
    many[:3] += 1
    assert TOLERANCE.agree(labels, one, [0]) and not TOLERANCE.agree(labels, many, [0])


class TestRecordings:
    @pytest.fixture
    def model(self) -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()

    def record(self, model: nn.Module) -> Recording:
        images = torch.ones(2, 3, 2, 2)
        layers = {one.weight: one for one in trace(model, images).layers}
        mode = RecordingMode({id(t): n for n, t in named_tensors(model).items()}, layers)
        with whole_operators(), mode:
            mode.recording.outputs = [model(images)]
        return mode.recording

    def difference(
        self, model: nn.Module, dense: Recording, small: Recording, kept: Tensor
    ) -> str | None:
        layers = {one.weight: one for one in trace(model, torch.ones(1, 3, 2, 2)).layers}
        keep = {"0.weight": {0: kept}, "2.weight": {1: kept}}
        return find_difference(dense, small, keep, layers, TOLERANCE)

    def test_every_layer_is_compared(self, model: nn.Sequential) -> None:
        dense = self.record(model)
        assert {weight: one.shape for (weight, _), (_, one) in dense.layers.items()} == {
            "0.weight": (4, 8),
            "2.weight": (2, 8),
        }
        kept = torch.tensor([0, 2])
        key = ("0.weight", 0)
        source, out = dense.layers[key]
        read, written = dense.layers["2.weight", 0]
        layers = {key: (source, out[kept]), ("2.weight", 0): (read[kept], written)}
        small = Recording(layers, dense.outputs)
        assert self.difference(model, dense, small, kept) is None
        wrong = Recording({**layers, key: (source, out[kept] + 1)}, dense.outputs)
        assert self.difference(model, dense, wrong, kept) == "0 gives other values"
        missing = Recording({key: layers[key]}, dense.outputs)
        assert self.difference(model, dense, missing, kept) == "other layers run"
        outputs = Recording(layers, [dense.outputs[0][:, :1]])
        assert self.difference(model, dense, outputs, kept) == (
            "outputs change from (2, 2, 2, 2) to (2, 1, 2, 2)"
        )

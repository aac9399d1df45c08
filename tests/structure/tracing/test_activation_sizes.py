"""Activations and operators of a small network, by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoprune.structure.tracing.activation_sizes import RETURN
from autoprune.structure.tracing.trace import trace


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Linear(4 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu_(self.a(x))
        out: Tensor = self.b(h.flatten(1))
        return out


def test_views_and_in_place_operators_share_an_activation() -> None:
    found = trace(Net().eval(), torch.zeros(1, 3, 2, 2))
    assert [one.size for one in found.activations] == [48, 64, 8]  # float32: input, hidden, output
    assert [dict(one.per_unit) for one in found.activations] == [{}, {"a": 16.0}, {}]
    assert [(one.name, one.reads, one.writes) for one in found.operators] == [
        ("conv2d", (0,), (1,)),
        ("relu", (1,), (1,)),
        ("linear", (1,), (2,)),
        (RETURN, (2,), ()),
    ]
    assert found.operators[0].tensors == ("a.weight", "a.bias")

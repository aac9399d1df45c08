"""Labels that meet in element-wise arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autoprune.structure.tracing.trace import trace


def test_a_value_for_every_position_and_width_of_a_head(net: Any) -> None:
    """Rotary embeddings: positions stay whole, widths are cut with those of the heads."""
    model = net(
        lambda m, x: m.c(
            (m.a(x).unflatten(-1, (3, -1)).transpose(1, 2) * m.table).transpose(1, 2).flatten(2)
        ),
        a=nn.Linear(6, 12),
        table=nn.Buffer(torch.randn(5, 4)),
        c=nn.Linear(12, 2),
    )
    structure = trace(model, torch.randn(2, 5, 6))
    cut = {group.name: group for group in structure.groups}
    assert {name: group.size for name, group in cut.items()} == {"a#heads": 3, "a#widths": 4}
    found = {(s.tensor, s.dim): s.positions for s in cut["a#widths"].slices}
    assert found["table", 1].tolist() == [[0], [1], [2], [3]]
    assert found["a.weight", 0].tolist() == [[j, j + 4, j + 8] for j in range(4)]
    assert not [s for s in cut["a#heads"].slices if s.tensor == "table"]

"""Which integers on modules may be sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autoprune.structure.tracing.followers import candidates
from autoprune.structure.tracing.sizes import SizedCall


def test_a_table_of_indices_follows_nothing() -> None:
    model: Any = nn.Module()
    model.sizes, model.indices = [6, 2], list(range(100))  # one of which equals the width as well
    call = SizedCall(("",), (torch.arange(1, 7).reshape(6, 1),))
    assert {one.key for one in candidates(model, call)} == {("", "sizes", 0)}
    model.sizes = [6, *[2] * 99]  # pieces of what is split
    split = SizedCall(("",), tuple(torch.arange(n).reshape(-1, 1) for n in model.sizes), True)
    assert ("", "sizes", 99) in {one.key for one in candidates(model, split)}

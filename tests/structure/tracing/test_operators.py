"""An operator's number means the same activation at every run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.structure.tracing.operators import OperatorMode, plain_arithmetic, whole_operators
from autoprune.structure.tracing.trace import trace

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Make = Callable[[Any, Tensor], Tensor]


class Names(OperatorMode):
    """Operators by their numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        assert number == len(self.seen)
        self.seen.append(name)
        return func(*args, **kwargs)


class Blocks(nn.Module):
    """Two residual blocks; something is made in the forward pass before them."""

    ids: Tensor

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.make, self.kept = make, dict[Any, Tensor]()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.a = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(2))
        self.b = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(2))
        self.fc, self.scale = nn.Linear(6, 4), nn.Parameter(torch.rand(6, 1, 1))
        self.table = nn.Parameter(torch.rand(20))
        self.register_buffer("ids", torch.arange(20.0))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.make(self, self.stem(x)))
        for a, b in zip(self.a, self.b, strict=True):
            x = F.relu(x + b(F.relu(a(x))))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


def grid(m: Any, h: Tensor) -> Tensor:
    if h.shape[2:] not in m.kept:
        ramp = torch.meshgrid(torch.arange(h.shape[2]), torch.arange(h.shape[3]), indexing="ij")
        m.kept[h.shape[2:]] = torch.stack(ramp, -1).sum(-1).float()
    return h + m.kept[h.shape[2:]].to(h.device)[None] * 0.1


def remembered_parameter(m: Any, h: Tensor) -> Tensor:
    if "table" not in m.kept:
        m.kept["table"] = m.table[m.ids.long()].exp()
    return h * m.kept["table"][:8]


def filled(m: Any, h: Tensor) -> Tensor:
    made = torch.zeros_like(h)
    made[..., :4] = h[..., :4]
    return made + h


MAKES: dict[str, Make] = {
    "nothing": lambda m, h: h,
    "arange": lambda m, h: h + torch.arange(8.0),
    "from a list": lambda m, h: h + torch.tensor([float(i) for i in range(8)]),
    "zeros like": lambda m, h: h + torch.zeros_like(h),
    "a triangular mask": lambda m, h: h.masked_fill(torch.ones(8, 8).tril() == 0, 0.0),
    "positions from a buffer": lambda m, h: h + m.ids[:8],
    "a function of a parameter": lambda m, h: h * F.relu(m.scale).exp(),
    "a remembered grid": grid,
    "a remembered parameter": remembered_parameter,
    "dropout that is on": lambda m, h: F.dropout(h, 0.1),
    "noise": lambda m, h: h + torch.randn_like(h),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES.keys())
@pytest.mark.parametrize("context", [whole_operators, torch.inference_mode])
def test_shortcuts_have_the_same_numbers_whatever_is_made(make: Make, context: Any) -> None:
    torch.manual_seed(0)
    model = Blocks(make).eval()
    structure = trace(model, IMAGES)
    shortcuts = {one.name: one.shortcut for one in structure.layers if one.shortcut is not None}
    assert shortcuts.keys() == {"b.0", "b.1"}
    for _ in range(2):
        names = Names()
        with plain_arithmetic(), context(), names:
            model(IMAGES)
        assert [names.seen[number] for number in shortcuts.values()] == ["relu", "relu"]
        assert [names.seen[one.number] for one in structure.layers] == ["conv2d"] * 5 + ["linear"]


def test_what_is_written_in_place_through_a_view_comes_of_the_layer() -> None:
    model = Blocks(filled).eval()
    names = Names()
    with whole_operators(), names:
        model(IMAGES)
    # zeros_like and its slice have no number, copying into the slice and the sum have one.
    assert names.seen[:5] == ["conv2d", "slice", "copy", "add", "relu"]


def test_threads_that_overlap_leave_arithmetic_as_it_was() -> None:
    """The first in switches, the last out switches back."""
    fast = torch.backends.mha.get_fastpath_enabled
    before = fast()
    first, second = plain_arithmetic(), plain_arithmetic()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not fast()
    second.__exit__(None, None, None)
    assert fast() == before

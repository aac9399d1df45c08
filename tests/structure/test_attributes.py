from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.core.edits import AttributeEdit
from autoprune.core.policy import PruningPolicy
from autoprune.errors import ModelError
from autoprune.structure.attributes import number_of
from autoprune.structure.surgery import apply_policy
from autoprune.structure.tracing.trace import trace


class Reshaping(nn.Module):
    """Uses a size that it stored, and several in a list."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.width, self.sizes, self.flag = width, [width - 2, 2], True
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x).reshape(-1, self.width).split(self.sizes, 1)
        out: Tensor = self.last(torch.cat(first, 1))
        return out


def with_edits(*edits: AttributeEdit) -> PruningPolicy:
    policy = trace(Reshaping(), torch.randn(2, 4)).policy([[0, 1, 5]])
    return replace(policy, edits=edits)


def test_numbers_are_set_on_the_copy_alone() -> None:
    model = Reshaping()
    sizes = AttributeEdit("", "sizes", (4, 2), {"first": (0, 0)})
    small: Any = apply_policy(
        model, with_edits(AttributeEdit("", "width", 6, {"first": (1,)}), sizes)
    )
    assert (small.width, small.sizes, type(small.sizes)) == (3, [4, 2], list)
    assert (model.width, small.sizes is model.sizes) == (6, False)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (AttributeEdit("", "width", 7, {}), "changes 'width' from 7, which is 6 here"),
        (AttributeEdit("", "flag", 1, {}), "changes 'flag' from 1, which is True here"),
        (AttributeEdit("", "sizes", (2, 4), {}), r"from \(2, 4\), which is \[4, 2\] here"),
        (AttributeEdit("", "sizes", 4, {}), r"which is \[4, 2\] here"),
        (AttributeEdit("", "forward", 1, {}), "changes 'forward' from 1, which is not there"),
        (AttributeEdit("none", "width", 6, {}), "changes 'none.width' from 6, which is not there"),
        (AttributeEdit("first", "weight", 6, {}), "'first.weight' from 6, which is not there"),
        (AttributeEdit("", "_modules", 6, {}), "changes '_modules' from 6, which is {"),
        (AttributeEdit("", "x" * 900, 6, {}), "which is not there"),
    ],
)
def test_an_attribute_that_holds_something_else_is_refused(edit: AttributeEdit, words: str) -> None:
    with pytest.raises(ModelError, match=words) as refused:
        apply_policy(Reshaping(), with_edits(edit))
    assert len(str(refused.value)) < 500 and str(refused.value).isprintable()


def test_only_integers_are_numbers() -> None:
    module = nn.Module()
    held = {"a": 3, "b": (3, 4), "c": torch.Size([2]), "d": [1]}
    others = {"e": True, "f": 3.0, "g": (), "h": (1, 2.0), "i": {1: 2}, "j": torch.tensor(3)}
    vars(module).update(held | others)
    assert [number_of(module, name) for name in held] == [3, (3, 4), (2,), (1,)]
    assert not any(number_of(module, name) for name in (*others, "k"))

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from enum import Enum
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from autoprune.core.edits import AttributeEdit
from autoprune.core.policy import PruningPolicy
from autoprune.errors import ModelError
from autoprune.structure.attributes import check_edits, number_of, set_numbers, settings_of
from autoprune.structure.surgery import apply_policy
from autoprune.structure.tracing.trace import trace
from autoprune.structure.verify import analyze


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


def test_a_setting_changes_for_the_module_that_needs_it_alone() -> None:
    shared = SimpleNamespace(width=6, names=["a"], heads=(2, 3))
    model: Any = nn.Sequential(nn.Identity(), nn.Identity())
    model[0].config = model[1].config = shared
    assert set(settings_of(model[0])) == {"config.width", "config.names", "config.heads"}
    assert number_of(model[0], "config.heads") == (2, 3)
    assert number_of(model[0], "config.names") is None
    assert number_of(model[0], "config.depth") is None and number_of(model[0], "none.width") is None
    set_numbers(model, {("0", "config.width"): 4, ("0", "config.heads"): (1, 3)})
    assert (model[0].config.width, model[0].config.heads) == (4, (1, 3))
    assert model[1].config is shared and (shared.width, shared.heads) == (6, (2, 3))
    edits = [AttributeEdit("1", "config.width", 5, {}), AttributeEdit("1", "none.width", 5, {})]
    for edit, words in zip(edits, ("which is 6 here", "which is not there"), strict=True):
        with pytest.raises(ModelError, match=words):
            check_edits(model, [edit])


class Pool(Enum):
    MEAN = 2


class Single:
    """Is shared by all who copy it."""

    def __init__(self) -> None:
        self.width = 2

    def __copy__(self) -> Single:
        return self

    def __deepcopy__(self, memo: Any) -> Single:
        return self


class Borg:
    """Shares its attributes with its copies."""

    shared: ClassVar[dict[str, Any]] = {"width": 2}

    def __init__(self) -> None:
        self.__dict__ = self.shared

    def __copy__(self) -> Borg:
        return Borg()


def of_itself(x: Tensor) -> Tensor:
    return x


vars(of_itself)["width"] = WIDTH = 2

SHARED = {
    "a member of an enumeration": (Pool.MEAN, "_value_"),
    "a logger": (logging.getLogger("autoprune.tests.shared"), "level"),
    "one that is its own copy": (Single(), "width"),
    "one that shares its attributes": (Borg(), "width"),
    "a class": (type("Sized", (), {"width": 2}), "width"),
    "a function": (of_itself, "width"),
    "a module": (sys.modules[__name__], "WIDTH"),
}


@pytest.mark.parametrize("case", SHARED)
def test_what_all_share_is_never_set(case: str) -> None:
    holder, name = SHARED[case]
    before = dict(vars(holder))
    model: Any = Reshaping()
    model.held = holder
    assert not list(settings_of(model)) and number_of(model, f"held.{name}") is None
    edit = AttributeEdit("", f"held.{name}", 2, {"first": (1,)})
    with pytest.raises(ModelError, match=f"'held.{name}' from 2, which is not there") as refused:
        apply_policy(model, with_edits(edit))
    assert "\n" not in str(refused.value)
    with pytest.raises(KeyError):
        set_numbers(model, {("", edit.attribute): 1})
    assert dict(vars(holder)) == before and model.held is holder


class Halves(nn.Module):
    """Splits its channels in two, as many as a number of what all share."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool.MEAN
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.cat(self.first(x).split((2, 2), 1), 1))
        return out


def test_an_analysis_leaves_what_all_share_alone() -> None:
    assert not analyze(Halves().eval(), torch.randn(2, 4)).edits
    assert Pool.MEAN.value == 2


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

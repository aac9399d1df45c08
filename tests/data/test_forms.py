"""Inputs as nested tuples and dicts of tensors."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch

from autoprune.data.forms import described, map_tensors, plain, sample_shapes, tensors, with_floats
from autoprune.errors import DataError

A, B = torch.zeros(2, 3), torch.ones(2, 1, 4)


def test_lists_become_tuples_and_mappings_dicts() -> None:
    found: Any = plain([A, UserDict(b=[B, B])])
    assert isinstance(found, tuple) and found[0] is A
    assert type(found[1]) is dict and isinstance(found[1]["b"], tuple)


def test_a_tuple_of_one_tensor_is_that_tensor() -> None:
    assert plain((A,)) is A
    named: Any = plain({"a": [A]})
    assert named.keys() == {"a"} and named["a"] is A


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((A, "text"), "but got a str"),
        (torch.tensor(1.0), "but got a number"),
        ((), "but got "),
        ((A, B[:1]), r"the shapes \(2, 3\), \(1, 1, 4\)"),
        ({"a": {"b": 3}}, "a batch's inputs 'a' 'b' must be a tensor"),
    ],
)
def test_what_holds_no_samples_is_refused(inputs: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        plain(inputs)


def test_tensors_keep_their_order_and_structure() -> None:
    inputs = (A, {"b": B})
    assert [one is other for one, other in zip(tensors(inputs), (A, B), strict=True)] == [True] * 2
    summed = map_tensors(torch.add, inputs, inputs)
    assert torch.equal(summed[1]["b"], 2 * B)
    assert sample_shapes(inputs) == ([3], {"b": [1, 4]})


def test_integers_keep_their_precision() -> None:
    ids = torch.zeros(2, dtype=torch.int64)
    found = with_floats((A, ids), torch.float64)
    assert [one.dtype for one in found] == [torch.float64, torch.int64]


def test_descriptions() -> None:
    assert described(A) == "(2, 3)"
    assert described({"image": B, "vector": (A,)}) == "image (2, 1, 4), vector (2, 3)"

"""How networks are called with inputs of any form, and what they return."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autoprune.data import as_splits
from autoprune.errors import DataError, ModelError
from autoprune.structure.inputs import adapt_splits, class_scores, input_adapter, outputs_of, run
from autoprune.structure.tracing.trace import trace

A, B = torch.ones(2, 3), torch.full((2, 3), 2.0)


class Adds(nn.Module):
    """A network whose forward pass is a function of its own."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.forward = function
        self.weight = nn.Parameter(torch.ones(1))


def one(x: Tensor) -> Tensor:
    return 10 * x.clone()


def optional(x: Tensor, other: Tensor | None = None) -> Tensor:
    return 10 * x if other is None else 10 * x + other


def two(a: Tensor, b: Tensor) -> Tensor:
    return 10 * a + b


def a_list(parts: list[Tensor]) -> Tensor:
    return 10 * parts[0] + parts[1]


def a_dict(batch: dict[str, Tensor]) -> Tensor:
    return 10 * batch["a"] + batch["b"]


def anything(*args: Tensor, **kwargs: Tensor) -> Tensor:
    found = [*args, *kwargs.values()]
    return 10 * found[0] + sum(found[1:], torch.zeros(()))


@pytest.mark.parametrize(
    ("forward", "inputs", "value"),
    [
        (one, A, 10),
        (one, {"x": A}, 10),
        (one, {"image": A}, 10),
        (one, [A], 10),
        (optional, A, 10),
        (optional, (A, B), 12),
        (optional, {"other": B, "x": A}, 12),
        (two, (A, B), 12),
        (two, {"b": B, "a": A}, 12),
        (a_list, (A, B), 12),
        (a_dict, {"a": A, "b": B}, 12),
        (a_dict, ({"a": A, "b": B},), 12),
        (anything, (A, B), 12),
        (anything, {"u": A, "v": B}, 12),
    ],
)
def test_inputs_are_brought_into_the_form_that_is_taken(
    forward: Callable[..., Tensor], inputs: Any, value: float
) -> None:
    model = Adds(forward)
    form = input_adapter(model, inputs)
    assert run(model, form(inputs)).unique().tolist() == [value]


@pytest.mark.parametrize(
    ("forward", "inputs", "message"),
    [
        (one, (A, B), r"forward\(x\) does not take the data's inputs, \(2, 3\), \(2, 3\)"),
        (two, A, "missing a required argument: 'b'"),
        (two, {"a": A, "c": B}, "missing a required argument: 'b'"),
        (one, {"a": A, "b": B}, r"inputs, a \(2, 3\), b \(2, 3\)"),
    ],
)
def test_inputs_that_are_not_taken_are_told_in_one_line(
    forward: Callable[..., Tensor], inputs: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        input_adapter(Adds(forward), inputs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_come_in_the_precision_of_the_parameters(dtype: torch.dtype) -> None:
    tokens, mask = torch.arange(4), torch.ones(4, 1, dtype=torch.bool)
    data = as_splits(TensorDataset(torch.rand(4, 2), tokens, mask, tokens))
    taken = adapt_splits(data, Adds(anything).to(dtype)).train.take([1, 3])
    assert [part.dtype for part in taken.inputs] == [dtype, torch.int64, torch.bool]
    assert taken.targets is not None and taken.targets.tolist() == [1, 3]


def test_whole_numbers_and_a_network_without_parameters_stay() -> None:
    taken = adapt_splits(as_splits(TensorDataset(A.double())), nn.Identity()).train.take([0])
    assert isinstance(taken.inputs, Tensor) and taken.inputs.dtype == torch.float32


class Pair(NamedTuple):
    first: Tensor
    second: Any


@dataclass
class Output:
    logits: Tensor
    more: Any = None


def test_tensors_in_outputs_of_any_form() -> None:
    output = {"a": A, "b": [A, Pair(B, Output(A, (B, "text", None)))]}
    found = outputs_of(output)
    assert [*found] == [".a", ".b.0", ".b.1.0", ".b.1.1.logits", ".b.1.1.more.0"]
    assert found[".b.1.0"] is B and found[".b.1.1.more.0"] is B
    assert outputs_of(A) == {"": A}
    assert not outputs_of("text") and not outputs_of(Output)


def test_class_scores() -> None:
    assert class_scores(A) is A
    assert class_scores({"hidden": B, "logits": A}) is A
    assert class_scores(Output(A, B)) is A
    assert class_scores(OrderedDict(out=A)) is A
    for other in ((A, B), [A], {"a": A, "b": B}, "text", None):
        assert class_scores(other) is other


def test_what_a_dataclass_holds_is_not_cut(net: Any) -> None:
    parts = {"a": nn.Linear(3, 8), "b": nn.Linear(8, 6)}
    model = net(lambda m, x: Output(m.b(m.a(x))), **parts).eval()
    assert [group.name for group in trace(model, A).groups] == ["a"]
    with pytest.raises(ModelError, match="returns a str that contains no tensor"):
        trace(net(lambda m, x: str(m.a(x)), a=nn.Linear(3, 8)).eval(), A)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layers_under_autocast_are_seen(net: Any, dtype: torch.dtype) -> None:
    def cast(m: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype):
            return m.head(m.bn(m.conv(x)).relu().mean((2, 3))).float()  # type: ignore[no-any-return]

    def plain(m: Any, x: Tensor) -> Tensor:
        return m.head(m.bn(m.conv(x)).relu().mean((2, 3)))  # type: ignore[no-any-return]

    conv, bn = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
    parts = {"conv": conv, "bn": bn, "head": nn.Linear(8, 4)}
    found, known = (trace(net(f, **parts).eval(), torch.rand(2, 3, 6, 6)) for f in (cast, plain))
    assert [one.name for one in found.groups] == [one.name for one in known.groups] == ["conv"]
    for layer, same in zip(found.layers, known.layers, strict=True):
        for what in ("name", "bias", "batchnorm", "takes_bias", "refittable", "positions"):
            assert getattr(layer, what) == getattr(same, what)

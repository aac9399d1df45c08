"""Calling a network with its inputs, adapting inputs to its signature, and reading its outputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from autoprune.core.precision import float_dtype
from autoprune.data import Splits
from autoprune.data.forms import Inputs, described, map_tensors, plain, with_floats
from autoprune.errors import DataError, ModelError, first_line, user_code

__all__ = [
    "Inputs",
    "adapt_splits",
    "cannot_run",
    "class_scores",
    "device_of",
    "input_adapter",
    "outputs_of",
    "run",
    "run_pruned",
    "sample",
]


def run(model: nn.Module, inputs: Inputs, **more: Any) -> Any:
    """Call a network: tuples and lists are positional arguments, mappings keyword arguments.

    Args:
        model: the network.
        inputs: what it is given.
        **more: keyword arguments besides.
    """
    if isinstance(inputs, Tensor):
        return model(inputs, **more)
    if isinstance(inputs, Mapping):
        return model(**inputs, **more)
    return model(*inputs, **more)


def run_pruned(model: nn.Module, inputs: Inputs) -> Any:
    """Call a pruned network: its code may not take the sizes that it was cut to.

    Raises:
        ModelError: it raises, whatever that is.
    """
    with user_code(cannot_run):
        return run(model, inputs)


def cannot_run(reason: str) -> ModelError:
    """Return the error of a pruned network whose code raises."""
    return ModelError(f"the pruned network cannot be run: {reason}")


def sample(inputs: Inputs, batch: int) -> Any:
    """Return inputs with the given batch size, repeating samples where there are too few."""

    def resize(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() == 0:
            return leaf
        return leaf[torch.arange(batch, device=leaf.device) % len(leaf)]

    return tree_map(resize, inputs)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a network's tensors; the CPU if it has none."""
    tensor = next(model.parameters(), next(model.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device


def adapt_splits(splits: Splits, model: nn.Module) -> Splits:
    """Return splits whose inputs have the structure and precision that a network takes.

    Raises:
        DataError: the network's forward pass does not take such inputs.
    """
    return splits.changed(input_adapter(model, splits.train.take([0]).inputs))


def input_adapter(
    model: nn.Module, example: Inputs, what: str = "the data's inputs"
) -> Callable[[Inputs], Inputs]:
    """Return a function that adapts inputs to the arguments and precision of a network.

    Tuples are positional arguments and dicts keyword arguments. A network without such arguments
    may take the only tensor of a dict, or the whole tuple or dict as its one argument.

    Args:
        model: a network in evaluation mode.
        example: a batch with the structure that all inputs have.
        what: name of the inputs in messages.

    Raises:
        DataError: the network's forward pass does not take such inputs.
    """
    dtype = float_dtype(model)
    rearrange = _arrangement(model, with_floats(example, dtype), what)
    return lambda inputs: rearrange(with_floats(plain(inputs), dtype))


def _arrangement(model: nn.Module, example: Any, what: str) -> Callable[[Any], Any]:
    """Return a function that rearranges inputs to match the signature of a network's forward."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # not a Python function
        return lambda inputs: inputs
    reason = _misfit(signature, example)
    if reason is None:
        return lambda inputs: inputs
    if isinstance(example, Mapping) and len(example) == 1:
        (name,) = example
        if _misfit(signature, example[name]) is None:
            return lambda inputs: inputs[name]
    is_one_argument = not isinstance(example, Tensor) and not _misfit(signature, (example,))
    if is_one_argument and _runs(model, (example,)):
        return lambda inputs: (inputs,)
    raise DataError(
        f"the network's forward{_shown(signature)} does not take {what}, "
        f"{described(example)}: {reason}. A batch is (inputs, targets); inputs are a tensor, a "
        "tuple of positional arguments or a dict of arguments by name, and (a, b, targets) is "
        "two of them."
    )


def _misfit(signature: inspect.Signature, inputs: Any) -> str | None:
    """Return why a function cannot be called with these inputs; None if it can."""
    try:
        if isinstance(inputs, Mapping):
            signature.bind(**inputs)
        else:
            signature.bind(*((inputs,) if isinstance(inputs, Tensor) else inputs))
    except TypeError as error:
        return first_line(error)
    return None


def _runs(model: nn.Module, inputs: Any) -> bool:
    device = device_of(model)
    try:
        with torch.no_grad():
            run(model, map_tensors(lambda one: one.to(device), inputs))
    except Exception:
        return False
    return True


def _shown(signature: inspect.Signature) -> str:
    return f"({', '.join(signature.parameters)})"


def outputs_of(value: Any) -> dict[str, Tensor]:
    """Return every tensor in a network's output, by its path.

    The output may nest tuples, lists, mappings and dataclasses.
    """
    return dict(_tensors_in(value, ""))


def _tensors_in(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
        return
    for key, part in _parts_of(value):
        yield from _tensors_in(part, f"{path}.{key}")


def _parts_of(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (tuple, list)):
        yield from enumerate(value)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value))
    elif (leaves := tree_leaves(value)) and leaves[0] is not value:
        yield from enumerate(leaves)


def class_scores(output: Any) -> Any:
    """Return the class scores in a network's output; the output itself if it has none.

    Class scores are the tensor called "logits" in a mapping or dataclass, or its only tensor.
    """
    found = {} if isinstance(output, (Tensor, tuple, list)) else outputs_of(output)
    return found.get(".logits", next(iter(found.values())) if len(found) == 1 else output)

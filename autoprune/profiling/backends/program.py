"""A network as `torch.export` records it: what the converters of all runtimes start from."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import is_concrete_int
from torch.utils._pytree import tree_structure, tree_unflatten

from autoprune.data.forms import Inputs, tensors, with_floats
from autoprune.errors import AutopruneError, ModelError, chain, first_line, text_of
from autoprune.structure.inputs import outputs_of, run, sample
from autoprune.structure.surgery import deep_copy

Predict: TypeAlias = Callable[[Sequence[Tensor]], list[Tensor]]
"""Runs a network in its runtime: the tensors of a batch in order → those of its outputs."""


class Flat(nn.Module):
    """A network of any inputs and outputs, as one that takes and returns plain tensors."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.model = model
        self._form = tree_structure(inputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors in the network's output, in order."""
        outputs = outputs_of(run(self.model, tree_unflatten(inputs, self._form)))
        return tuple(outputs.values())


@dataclass(frozen=True, eq=False)
class Program:
    """An exported network, which takes and returns plain tensors.

    Attributes:
        exported: the program.
        inputs: names of the inputs.
        outputs: names of the outputs.
    """

    exported: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def shapes(self) -> list[list[int | torch.SymInt]]:
        """The shapes of the inputs; a dimension of any size is a symbol."""
        wanted = set(self.exported.graph_signature.user_inputs)
        nodes = (node for node in self.exported.graph.nodes if node.name in wanted)
        shapes = (node.meta["val"].shape for node in nodes)
        # A size that the network fixes may be a symbol, too.
        return [[int(n) if is_concrete_int(n) else n for n in shape] for shape in shapes]

    @property
    def batch(self) -> int | torch.SymInt:
        """The batch size, a symbol if the program takes any."""
        return self.shapes[0][0]

    @property
    def takes_any_batch(self) -> bool:
        """Whether the batch size is free."""
        return not isinstance(self.batch, int)


def program_of(
    model: nn.Module, inputs: Inputs, dtype: str = "float32", any_batch: bool = True
) -> Program:
    """Export a network in evaluation mode on the CPU; the network itself is not changed.

    Args:
        model: the network.
        inputs: a batch of any size.
        dtype: data type of the weights and of floating inputs.
        any_batch: whether the program should take any batch size; where the network itself fixes
            one, or this is false, it takes that of `inputs` or, if that is fixed, one sample.

    Raises:
        ModelError: the network cannot be exported.
    """
    kind = getattr(torch, dtype)
    model = deep_copy(model).eval().to("cpu", kind)
    inputs = with_floats(inputs, kind)
    if any_batch:
        # Of one sample, the size 1 would be taken for a constant.
        free = _exported(model, sample(inputs, 2), Dim.AUTO)
        if free.takes_any_batch:
            return free
        inputs = sample(inputs, 1)
    return _exported(model, inputs, Dim.STATIC)


def _exported(model: nn.Module, inputs: Inputs, batch: object) -> Program:
    given = tuple(one.cpu().contiguous() for one in tensors(inputs))
    shapes = (tuple({0: batch} for _ in given),)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter itself
        try:
            outputs = outputs_of(run(model, inputs))
            program = torch.export.export(
                Flat(model, inputs), given, dynamic_shapes=shapes, strict=False
            )
        except Exception as error:  # the exporter raises many kinds
            raise ModelError(
                f"the network cannot be exported: torch.export fails: {first_line(error)}"
            ) from error
    named = [str(key) for key in inputs] if isinstance(inputs, dict) else []
    if len(named) != len(given):
        named = _numbered("input", len(given))
    paths = [path.strip(".").replace(".", "_") for path in outputs]
    if not all(path.isidentifier() for path in paths):
        paths = _numbered("output", len(paths))
    return Program(program, tuple(named), tuple(paths))


def _numbered(name: str, count: int) -> list[str]:
    """Return a name for each of some tensors, numbered if there are several."""
    return [name] if count == 1 else [f"{name}{place}" for place in range(count)]


@contextmanager
def conversion(program: Program, runtime: str) -> Iterator[None]:
    """Around a runtime's converter: whatever it raises becomes one line.

    Args:
        program: what is converted.
        runtime: the runtime's name, for the message.

    Raises:
        ModelError: the converter fails; the message names the operator and the module that calls
            it, if the converter says so.
    """
    try:
        # Without gradients, as the program was exported: fused attention lays its result out
        # differently where its mask needs one, and views of it would fail.
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the converter itself
            yield
    except AutopruneError:
        raise
    except Exception as error:  # converters raise many kinds
        *_, root = chain(error)
        told = _unsupported(program, error) or first_line(root)
        raise ModelError(f"the network cannot be converted to {runtime}: {told}") from error


def _unsupported(program: Program, error: BaseException) -> str | None:
    """Return in words which operator an error names, and who calls it; None if it names none."""
    modules: dict[str, str] = {}
    for exported in (program.exported, program.exported.run_decompositions()):
        for node in exported.graph.nodes:
            if (operator := _operator(str(node.target))) is not None:
                paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
                place = "".join(paths[-1:]).removeprefix("model").lstrip(".")
                modules.setdefault(operator, f"module {place!r}" if place else "its forward")
    # What is at the root of an error says it best.
    told = (_operator(word) for one in reversed([*chain(error)]) for word in text_of(one).split())
    found = next((operator for operator in told if operator in modules), None)
    return found and f"it lacks the operator {found!r}, which {modules[found]} calls."


def _operator(text: str) -> str | None:
    """Return the name in "aten.name", "aten.name.overload" or "aten::name", if a text has one."""
    found = re.search(r"\baten(?:\.|::)(\w+)", text)
    return None if found is None else found[1]

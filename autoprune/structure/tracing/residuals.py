"""Residual branches in a forward pass: what alone leads to one term of a sum.

The sum belongs to some module. Where the module without the branch does no more than run some of
its children one after the other (a projection, an activation), or nothing at all, these can stand
for it. That is seen by numbers: with all such sums replaced by their other term, what leaves the
module equals what entered it, or what one of its children made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from autoprune.structure.groups import LayerSpec
from autoprune.structure.tracing.call import Call
from autoprune.structure.tracing.flow import CLAMPS, GIVEN
from autoprune.structure.tracing.operators import OperatorMode

# Children that may run one after the other in place of a module.
LONGEST_CHAIN = 3
# Entries by which two tensors are compared.
ENTRIES = 4096


@dataclass(frozen=True)
class Term:
    """One term of a sum, with all that alone leads to it.

    Attributes:
        addition: number of the sum.
        place: of the term among its two.
        operators: numbers of the operators whose results are read for this term only.
    """

    addition: int
    place: int
    operators: frozenset[int]

    def contains(self, operators: range) -> bool:
        """Return whether all of some operators lead to this term only."""
        return self.operators.issuperset(operators)


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor at one place of a forward pass.

    Attributes:
        shape: its shape.
        entries: some of its entries, evenly spaced.
        made_at: number of the operator that made it; `GIVEN` if none did.
    """

    shape: torch.Size
    entries: Tensor
    made_at: int

    def equals(self, other: Value) -> bool:
        """Return whether another tensor has the same values."""
        return self.shape == other.shape and torch.equal(self.entries, other.entries)


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module.

    Attributes:
        path: of the module.
        source: its only argument; None if it has others.
        out: what it returns; None if that is no tensor.
        operators: numbers of the operators that it runs.
    """

    path: str
    source: Value | None
    out: Value | None
    operators: range


@dataclass
class _Node:
    """An operator: its name, who made its inputs, who reads its result, and the weight it reads."""

    name: str
    sources: tuple[int, ...]
    weight: str | None
    readers: set[int] = field(default_factory=set)


class ResidualTrace(OperatorMode):
    """Records who reads what, and what enters and leaves every module.

    Attributes:
        calls: of all modules, inner ones before those around them.
        additions: numbers of the sums of two tensors of the same shape.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        layers: Mapping[str, LayerSpec],
        skipped: Mapping[int, int] | None = None,
    ) -> None:
        """Prepare a trace.

        Args:
            names: of tensors, by `id`.
            layers: by weight.
            skipped: by the number of a sum, the place of the term that it is made without.
        """
        super().__init__()
        self.calls: list[ModuleCall] = []
        self.additions: list[int] = []
        self._names = names
        self._layers = layers
        self._skipped = skipped or {}
        self._nodes: list[_Node] = []
        self._made_at: dict[int, int] = {}
        self._entered: list[tuple[Value | None, int]] = []
        self._alive: list[Any] = []  # or Python would reuse the ids of tensors

    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operator and record it."""
        if number in self._skipped:
            out = without_term(func, args, self._skipped[number])
        else:
            out = func(*args, **kwargs)
        call = Call(name, func, args, kwargs, out)
        terms = list(call.inputs())
        made_at = tuple(self._made_at.get(id(tensor), GIVEN) for tensor in terms)
        for source in {*made_at} - {GIVEN}:
            self._nodes[source].readers.add(number)
        weights = (self._names.get(id(self.origin(tensor)), "") for tensor in terms)
        weight = next((one for one in weights if one in self._layers), None)
        self._nodes.append(_Node(name, made_at, weight))
        is_plain = name == "add" and kwargs.get("alpha", 1) == 1 and len(terms) == 2
        if is_plain and terms[0].shape == terms[1].shape:
            self.additions.append(number)
        self._made_at |= {id(tensor): number for tensor in call.outputs()}
        self._alive.append((args, out))
        return out

    def terms(self) -> Iterator[Term]:
        """Yield the terms of all sums that something alone leads to."""
        for addition in self.additions:
            sources = self._nodes[addition].sources
            for place, start in enumerate(sources):
                own = {addition}
                # Who reads a result has a larger number, and is known by then.
                for number in range(start, -1, -1):
                    readers = self._nodes[number].readers
                    if number != sources[1 - place] and readers and readers <= own:
                        own.add(number)
                if len(own) > 1:
                    yield Term(addition, place, frozenset(own - {addition}))

    def addition(self, term: Term) -> int:
        """Return the number of a term's sum among all additions."""
        return sum(node.name == "add" for node in self._nodes[: term.addition])

    def other_source(self, term: Term) -> int:
        """Return the operator that made the other term of a sum; `GIVEN` if none did."""
        return self._nodes[term.addition].sources[1 - term.place]

    def weights(self, operators: Iterable[int]) -> tuple[str, ...]:
        """Return the weights of the layers among operators, in the order in which they run."""
        nodes = (self._nodes[number] for number in sorted(operators))
        return tuple(dict.fromkeys(node.weight for node in nodes if node.weight is not None))

    def last_added(self, number: int) -> str | None:
        """Return the weight of the layer whose output is added to an operator's result last.

        Only its BN, a sum and a clamp may stand between them.
        """
        while number != GIVEN:
            node = self._nodes[number]
            if node.weight is not None:
                return node.weight
            if node.name == "add":
                number = max(node.sources)
            elif node.name == "batch_norm" or node.name in CLAMPS:
                number = node.sources[0]
            else:
                return None
        return None

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Record the calls of a network's modules; the network is a copy, which gets hooks."""
        hooks = []
        for path, module in model.named_modules():
            hooks.append(module.register_forward_pre_hook(self._enter))
            hooks.append(module.register_forward_hook(partial(self._leave, path)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        source = self._value(args[0]) if len(args) == 1 else None
        self._entered.append((source, len(self._nodes)))

    def _leave(self, path: str, _: nn.Module, __: tuple[Any, ...], out: Any) -> None:
        source, start = self._entered.pop()
        operators = range(start, len(self._nodes))
        self.calls.append(ModuleCall(path, source, self._value(out), operators))

    def _value(self, tensor: Any) -> Value | None:
        if not isinstance(tensor, Tensor):
            return None
        step = max(tensor.numel() // ENTRIES, 1)
        with _disable_current_modes():
            # A copy: the tensor may be written to.
            entries = tensor.reshape(-1)[::step].clone()
        return Value(tensor.shape, entries, self._made_at.get(id(tensor), GIVEN))


def without_term(func: Any, args: Sequence[Any], place: int) -> Any:
    """Return a sum's other term in place of the sum."""
    other = args[1 - place]
    # A sum in place is the first of its terms.
    return args[0].copy_(other) if func._schema.is_mutable else other.clone()


def chain(around: ModuleCall, inside: Sequence[ModuleCall]) -> list[ModuleCall] | None:
    """Return the calls that together make of a module's input what leaves it.

    Args:
        around: call of the module.
        inside: calls of its children.

    Returns:
        The calls in the order in which they run, as few as may be; None if there are none such.
    """
    ways: list[tuple[Value | None, list[ModuleCall]]] = [(around.out, [])]
    for _ in range(LONGEST_CHAIN + 1):
        for value, way in ways:
            if _equal(value, around.source):
                return way
        ways = [
            (call.source, [call, *way])
            for value, way in ways
            for call in inside
            if _equal(call.out, value)
        ]
    return None


def _equal(a: Value | None, b: Value | None) -> bool:
    return a is not None and b is not None and a.equals(b)

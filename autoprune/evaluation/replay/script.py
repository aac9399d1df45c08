"""Recording of a forward pass as a script of operators, whose first ones `replay` can skip.

The network's Python code runs on stand-ins, tensors of the right shape without data, so that no
computed value can influence it unnoticed. Operators are recorded as the network calls them, without
decomposition: every value then comes from the same kernel as in a plain forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from autoprune.structure.inputs import Inputs, run
from autoprune.structure.surgery import named_tensors, replica
from autoprune.structure.tracing.operators import whole_operators


class NotReplayable(Exception):
    """The network does not follow the script."""


class Made(NamedTuple):
    """A result of an operator."""

    number: int
    place: int


class Given(NamedTuple):
    """A parameter, a buffer, or one of the network's inputs."""

    name: str


# The source of a tensor of unknown origin, and the memory of tensors that no operator made.
UNKNOWN = Given("?")
OUTSIDE = -1


class StandIn(Tensor):
    """Stands for an operator's result in the network's Python code: it has no data.

    Attributes:
        source: the operator result that it stands for.
        memory: number of the memory that it shares with its views.
        value: the result itself, only during recording.
    """

    source: Made
    memory: int
    value: Tensor | None
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, like: Tensor, source: Made, memory: int, value: Tensor | None) -> StandIn:
        """Make a stand-in with the shape, layout, type and device of a tensor."""
        made: StandIn = torch.Tensor._make_wrapper_subclass(
            cls,
            like.shape,
            strides=like.stride(),
            storage_offset=like.storage_offset(),
            dtype=like.dtype,
            device=like.device,
        )
        made.source, made.memory, made.value = source, memory, value
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
        """Refuse to be read outside of a replay."""
        raise NotReplayable(f"{func} reads a tensor that was not computed")


@dataclass(frozen=True, eq=False)
class Step:
    """One operator of the script.

    Attributes:
        func: the operator.
        call: its positional and keyword arguments, with a `Made` or `Given` for every tensor.
        leaves: the same arguments, flattened.
        results: its flattened results: a stand-in, or the index in `leaves` of the argument that
            it returns (possibly changed in place).
        form: tree structure of the results.
        writes: numbers of the memory that it writes to.
        repeatable: whether all arguments are known and equal arguments give equal results.
    """

    func: Any
    call: tuple[Any, Any]
    leaves: Sequence[Any]
    results: Sequence[StandIn | int]
    form: TreeSpec
    writes: frozenset[int]
    repeatable: bool

    def reads(self, kind: type[Made] | type[Given]) -> Iterator[Any]:
        """Yield the sources of one kind among its arguments."""
        return (leaf for leaf in self.leaves if isinstance(leaf, kind))

    def is_called(self, func: Any, call: Any, given: Mapping[int, Given]) -> bool:
        """Say whether an operator call is this step."""
        return func is self.func and _is_same(call, self.call, given)


def _is_same(found: Any, written: Any, given: Mapping[int, Given]) -> bool:
    if isinstance(found, Tensor):
        return bool(source_of(found, given) == written)
    if isinstance(found, (list, tuple)):
        alike = type(found) is type(written) and len(found) == len(written)
        return alike and all(_is_same(a, b, given) for a, b in zip(found, written, strict=True))
    if isinstance(found, dict):
        alike = isinstance(written, dict) and list(found) == list(written)
        return alike and all(_is_same(found[key], written[key], given) for key in found)
    return bool(found == written)


class Script:
    """The operators of a forward pass of one network on inputs of fixed shapes, in order."""

    def __init__(self, steps: Sequence[Step], outputs: Any, memory: Sequence[int]) -> None:
        """Take the steps, the network's output, and the size of every memory in bytes."""
        self.steps = steps
        self._memory = memory
        self._stand_ins = [r for s in steps for r in s.results if isinstance(r, StandIn)]
        self._last_read = {m: i for i, step in enumerate(steps) for m in step.reads(Made)}
        returned = (leaf for leaf in tree_leaves(outputs) if isinstance(leaf, StandIn))
        self._last_read |= dict.fromkeys((leaf.source for leaf in returned), len(steps))

    def first_change(self, base: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> int:
        """Return the number of the first operator that differs between two networks.

        Args:
            base: parameters and buffers of the recorded network, by name.
            other: parameters and buffers of another network, by name.
        """
        equal = set[str]()
        for number, step in enumerate(self.steps):
            names = {given.name for given in step.reads(Given)} & base.keys() - equal
            if not step.repeatable or any(not _equal(base[n], other.get(n)) for n in names):
                return number
            equal |= names
        return len(self.steps)

    def is_alive(self, made: Made, number: int) -> bool:
        """Say whether a result is made before an operator, and read by it or by a later one."""
        return made.number < number <= self._last_read.get(made, -1)

    def live_bytes(self, number: int) -> int:
        """Return the size of the tensors alive at an operator, in bytes."""
        live = {s.memory for s in self._stand_ins if self.is_alive(s.source, number)}
        return sum(self._memory[number] for number in live - {OUTSIDE})

    def overwritten(self, number: int) -> set[Made]:
        """Return the results whose memory is written by the given operator or a later one."""
        written = frozenset[int]().union(*(step.writes for step in self.steps[number:]))
        return {s.source for s in self._stand_ins if s.memory in written}


def _equal(a: Tensor, b: Tensor | None) -> bool:
    if b is None or a.dtype != b.dtype or a.shape != b.shape or a.stride() != b.stride():
        return False
    return torch.equal(a, b)


def given_sources(model: nn.Module, inputs: Inputs) -> dict[int, Given]:
    """Return the sources of parameters, buffers and inputs, by the `id` of the tensor."""
    named = {f"input {i}": leaf for i, leaf in enumerate(tree_leaves(inputs))}
    named |= named_tensors(model)
    return {id(tensor): Given(name) for name, tensor in named.items()}


def written_tensors(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Return the tensors that an operator writes to."""
    if not func._schema.is_mutable:
        return []
    written = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            written += [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return written


class _Recorder(TorchDispatchMode):
    """Runs a forward pass on stand-ins, computes the operators, and records them as steps."""

    def __init__(self, given: Mapping[int, Given]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self._given = given
        self.memory: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute and record one operator."""
        kwargs = dict(kwargs or {})
        leaves, spec = tree_flatten((args, kwargs))
        signature = [source_of(leaf, self._given) for leaf in leaves]
        real = [leaf.value if isinstance(leaf, StandIn) else leaf for leaf in leaves]
        real_args, real_kwargs = tree_unflatten(real, spec)
        found, form = tree_flatten(func(*real_args, **real_kwargs))
        writes = frozenset(
            leaf.memory if isinstance(leaf, StandIn) else OUTSIDE
            for leaf in written_tensors(func, args, kwargs)
        )
        repeatable = (
            UNKNOWN not in signature
            and OUTSIDE not in writes
            and all(isinstance(one, Tensor) for one in found)
            and not _is_random(func, real_args, real_kwargs, found)
        )
        shown, results = self._results(found, leaves, real)
        call = tree_unflatten(signature, spec)
        self.steps.append(Step(func, call, signature, results, form, writes, repeatable))
        return tree_unflatten(shown, form)

    def _results(
        self, found: Sequence[Any], leaves: Sequence[Any], real: Sequence[Any]
    ) -> tuple[list[Any], list[StandIn | int]]:
        """Return the results as Python code receives them, and as the script stores them."""
        shown: list[Any] = []
        results: list[StandIn | int] = []
        for place, value in enumerate(found):
            if not isinstance(value, Tensor):
                shown.append(value)
                continue
            same = next((i for i, leaf in enumerate(real) if leaf is value), None)
            if same is not None:
                if (value.shape, value.stride()) != (leaves[same].shape, leaves[same].stride()):
                    raise NotReplayable("an operator changes the shape of a tensor in place")
                shown.append(leaves[same])
                results.append(same)
                continue
            source, memory = Made(len(self.steps), place), self._memory_number(value, leaves, real)
            shown.append(StandIn(value, source, memory, value))
            results.append(StandIn(value, source, memory, None))
        return shown, results

    def _memory_number(self, value: Tensor, leaves: Sequence[Any], real: Sequence[Any]) -> int:
        """Return the memory number of the argument of which a result is a view, or a new number."""
        for leaf, own in zip(leaves, real, strict=True):
            if isinstance(own, Tensor) and memory_of(own) == memory_of(value):
                return leaf.memory if isinstance(leaf, StandIn) else OUTSIDE
        self.memory.append(value.untyped_storage().nbytes())
        return len(self.memory) - 1


def memory_of(tensor: Tensor) -> int:
    """Return the address of the memory that a tensor shares with its views."""
    return tensor.untyped_storage().data_ptr()


def _is_random(func: Any, args: Any, kwargs: Any, found: Sequence[Any]) -> bool:
    """Say whether an operator draws random numbers; if it might, it is run a second time."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    if func._schema.is_mutable:
        return True
    again = tree_leaves(func(*args, **kwargs))
    return not all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def source_of(leaf: Any, given: Mapping[int, Given]) -> Any:
    """Return the source of a tensor argument, or any other argument as it is."""
    if isinstance(leaf, StandIn):
        return leaf.source
    return given.get(id(leaf), UNKNOWN) if isinstance(leaf, Tensor) else leaf


def record(model: nn.Module, inputs: Inputs) -> Script:
    """Run a network and record its script.

    Raises:
        NotReplayable: its forward pass cannot be recorded.
    """
    with torch.no_grad():
        # Values that it caches outside of itself, such as tables, must not be made of stand-ins.
        run(replica(model), inputs)
    recorder = _Recorder(given_sources(model, inputs))
    with whole_operators(), recorder:
        outputs = run(model, inputs)
    return Script(recorder.steps, outputs, recorder.memory)

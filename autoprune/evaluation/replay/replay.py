"""Forward passes that skip the operators a network shares with a base network.

The Python code of the network runs in full, but operators before a boundary are looked up in the
base's `script` instead of being computed, and the code receives stand-ins for their results.
`advance` computes the tensors that are alive at the boundary, `resume` continues from them. An
operator is skipped only if it is the one in the script: the same function with the same sources and
constants.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only, tree_unflatten

from autoprune.evaluation.replay.script import (
    Given,
    Made,
    NotReplayable,
    Script,
    StandIn,
    given_sources,
    memory_of,
    written_tensors,
)
from autoprune.structure.inputs import Inputs, run
from autoprune.structure.tracing.operators import whole_operators

Values: TypeAlias = Mapping[Made, Tensor]
"""Tensors alive at an operator: made before it, and read by it or by a later one."""


class _Replay(TorchDispatchMode):
    """Follows a script: looks up operators before the start; subclasses handle the others."""

    def __init__(
        self, script: Script, start: int, values: Values, given: Mapping[int, Given]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lost = False
        self.values = dict(values)
        self._script = script
        self._start = start
        self._given = given
        self._number = -1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Look up one operator, or compute it."""
        self._number += 1
        kwargs = dict(kwargs or {})
        if self._number < self._start:
            return self._look_up(func, args, kwargs)
        return self.compute(self._number, func, args, kwargs)

    @abstractmethod
    def compute(self, number: int, func: Any, args: Any, kwargs: Any) -> Any:
        """Run one operator at or after the start."""

    def _look_up(self, func: Any, args: Any, kwargs: Any) -> Any:
        if self._number >= len(self._script.steps):
            raise self.leave("the network has more operators than the script")
        step = self._script.steps[self._number]
        if not step.is_called(func, (args, kwargs), self._given):
            raise self.leave(f"operator {self._number} is {func}, not {step.func} of the script")
        leaves = tree_leaves((args, kwargs))
        found = [leaves[r] if isinstance(r, int) else r for r in step.results]
        return tree_unflatten(found, step.form)

    def real(self, tree: Any) -> Any:
        """Replace stand-ins by their tensors."""
        return tree_map_only(StandIn, self._value, tree)

    def _value(self, leaf: StandIn) -> Tensor:
        value = self.values.get(leaf.source)
        if value is None:
            raise self.leave("an operator reads what the script says is read no more")
        return value

    def leave(self, reason: str) -> NotReplayable:
        """Record that the script was left, because Python code may swallow the exception."""
        self.lost = True
        return NotReplayable(reason)


class _Reached(BaseException):
    """Ends a forward pass at the boundary; `except Exception` in the network misses it."""


class _Advance(_Replay):
    """Computes the operators up to a stop and keeps the tensors that are still to be read."""

    def __init__(
        self, script: Script, start: int, stop: int, values: Values, given: Mapping[int, Given]
    ) -> None:
        super().__init__(script, start, values, given)
        self._stop = stop

    def compute(self, number: int, func: Any, args: Any, kwargs: Any) -> Any:
        """Run one operator; Python code still receives stand-ins."""
        if number == self._stop:
            raise _Reached
        shown = self._look_up(func, args, kwargs)
        found = tree_leaves(func(*self.real(args), **self.real(kwargs)))
        for stand_in, value in zip(tree_leaves(shown), found, strict=True):
            if isinstance(stand_in, StandIn):
                self.values[stand_in.source] = value
        for made in [m for m in self.values if not self._script.is_alive(m, number + 1)]:
            del self.values[made]
        return shown


class _Resume(_Replay):
    """Computes every operator from the start on without changing the given values."""

    def __init__(
        self, script: Script, start: int, values: Values, given: Mapping[int, Given]
    ) -> None:
        own = _copies(values, script.overwritten(start))
        super().__init__(script, start, {**values, **own}, given)
        self._not_ours = {memory_of(tensor) for made, tensor in values.items() if made not in own}

    def compute(self, number: int, func: Any, args: Any, kwargs: Any) -> Any:
        """Run one operator."""
        args, kwargs = self.real(args), self.real(kwargs)
        if any(
            memory_of(tensor) in self._not_ours for tensor in written_tensors(func, args, kwargs)
        ):
            raise self.leave(f"{func} writes to memory that the script's operators only read")
        return func(*args, **kwargs)


def _copies(values: Values, wanted: set[Made]) -> dict[Made, Tensor]:
    """Copy tensors; copies share memory as the originals do."""
    memory: dict[int, Any] = {}
    copies = {}
    for made in wanted & values.keys():
        tensor = values[made]
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in memory:
            memory[storage.data_ptr()] = storage.clone()
        layout = tensor.storage_offset(), tensor.shape, tensor.stride()
        copies[made] = tensor.new_empty(0).set_(memory[storage.data_ptr()], *layout)
    return copies


def advance(
    base: nn.Module, inputs: Inputs, script: Script, start: int, stop: int, values: Values
) -> Values:
    """Compute the tensors alive at `stop` from those alive at `start`.

    Args:
        base: the network that was recorded.
        inputs: inputs of the shapes that were recorded.
        script: script of the base.
        start: number of an operator; 0 with no values is the beginning.
        stop: number of a later operator, at most `Script.first_change`.
        values: tensors alive at `start`; they may be overwritten.

    Raises:
        NotReplayable: the network left the script.
    """
    mode = _Advance(script, start, stop, values, given_sources(base, inputs))
    with whole_operators(), suppress(_Reached):
        _follow(base, inputs, mode)
    return mode.values


def resume(model: nn.Module, inputs: Inputs, script: Script, start: int, values: Values) -> Any:
    """Run a network from operator `start` on and return its output.

    Args:
        model: a network whose operators before `start` are those of the script.
        inputs: inputs of the shapes that were recorded.
        script: script of the base.
        start: number of an operator, at most `Script.first_change`.
        values: tensors alive at `start`; they are not changed.

    Raises:
        NotReplayable: the network left the script.
    """
    with whole_operators():
        mode = _Resume(script, start, values, given_sources(model, inputs))
        return mode.real(_follow(model, inputs, mode))


def _follow(model: nn.Module, inputs: Inputs, mode: _Replay) -> Any:
    with mode:
        outputs = run(model, inputs)
    if mode.lost:
        raise NotReplayable("the network left the script and went on")
    return outputs

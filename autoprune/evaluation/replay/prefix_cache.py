"""Cache of the operators that many networks share with one base network, which run only once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from autoprune.data.forms import Inputs, described
from autoprune.evaluation.replay.replay import Values, advance, resume
from autoprune.evaluation.replay.script import NotReplayable, Script, StandIn, record
from autoprune.structure.inputs import class_scores
from autoprune.structure.surgery import named_tensors, replica

# Limit on the live tensors at the boundary, for all batches together.
MAX_BYTES = 1_000_000_000


@dataclass
class _Pass:
    """A forward pass of the base on one batch, computed up to a boundary.

    Attributes:
        inputs: the batch.
        script: script of the base for batches of this shape.
        boundary: number of the first operator that is not computed yet.
        alive: tensors that this operator or a later one reads.
    """

    inputs: Inputs
    script: Script
    boundary: int = 0
    alive: Values = field(default_factory=dict)

    def move(self, base: nn.Module, boundary: int) -> None:
        """Compute up to another boundary, from the start if it lies before the current one."""
        if boundary < self.boundary:
            self.boundary, self.alive = 0, {}
        if boundary > self.boundary:
            self.alive = advance(
                base, self.inputs, self.script, self.boundary, boundary, self.alive
            )
            self.boundary = boundary


class PrefixCache:
    """Runs networks from the first operator in which they differ from a base network.

    The cache holds one base and the live tensors at one boundary. Networks in the order of their
    first changes move the boundary forward, so that all of them together run the base once.

    Attributes:
        skipped: share of the operators that the last network skipped.
    """

    def __init__(self, batches: Sequence[Inputs]) -> None:
        """Take the batches on which all networks are run."""
        self.skipped = 0.0
        self._batches = batches
        self._base: nn.Module | None = None
        self._passes: list[_Pass] = []

    def outputs(self, model: nn.Module, base: nn.Module) -> list[Any] | None:
        """Return a network's output (or the class scores in it) for every batch.

        Args:
            model: the network; it is left unchanged.
            base: the base network, the same object at every call and never changed in between.

        Returns:
            The outputs; None if the network must be run in full.
        """
        self.skipped = 0.0
        try:
            if base is not self._base:
                self._begin(base)
            return self._outputs(replica(model), base)
        except Exception:
            # Unusual networks, and all others on this base, are run in full from now on. A fault of
            # the network itself appears again there.
            self._passes = []
            return None

    def _begin(self, base: nn.Module) -> None:
        self._base, self._passes = base, []
        scripts: dict[str, Script] = {}
        for batch in self._batches:
            shapes = described(batch)
            if shapes not in scripts:
                scripts[shapes] = record(base, batch)
            self._passes.append(_Pass(batch, scripts[shapes]))

    def _outputs(self, model: nn.Module, base: nn.Module) -> list[Any] | None:
        tensors = named_tensors(base), named_tensors(model)
        starts = {p.script: p.script.first_change(*tensors) for p in self._passes}
        if not all(starts.values()) or not starts or self._bytes(starts) > MAX_BYTES:
            return None
        outputs = []
        for one in self._passes:
            one.move(base, starts[one.script])
            found = resume(model, one.inputs, one.script, one.boundary, one.alive)
            outputs.append(class_scores(found))
            if isinstance(outputs[-1], StandIn):
                raise NotReplayable("the network returns a tensor in an unknown container")
        self.skipped = one.boundary / len(one.script.steps)
        return outputs

    def _bytes(self, starts: Mapping[Script, int]) -> int:
        return sum(one.script.live_bytes(starts[one.script]) for one in self._passes)

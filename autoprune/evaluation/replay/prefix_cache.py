"""What many networks have in common with one base is computed once: the cache of a prefix."""

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

# Of all that is alive at the boundary, for all batches together.
MOST_BYTES = 1_000_000_000


@dataclass
class _Pass:
    """The forward pass of the base on one batch, computed up to a boundary.

    Attributes:
        inputs: the batch.
        script: of the base on batches of this shape.
        boundary: number of the first operator that was not computed yet.
        alive: tensors that it or a later one reads.
    """

    inputs: Inputs
    script: Script
    boundary: int = 0
    alive: Values = field(default_factory=dict)

    def move(self, base: nn.Module, boundary: int) -> None:
        """Compute up to another boundary: from the beginning if it lies before this one."""
        if boundary < self.boundary:
            self.boundary, self.alive = 0, {}
        if boundary > self.boundary:
            self.alive = advance(
                base, self.inputs, self.script, self.boundary, boundary, self.alive
            )
            self.boundary = boundary


class PrefixCache:
    """Runs networks from the first operator on in which they differ from a base.

    It holds one base and one boundary, the tensors alive there. Networks that come in the order of
    their first changes move it forward, so that all of them together compute the base once.

    Attributes:
        skipped: share of the operators that the last network needed not run.
    """

    def __init__(self, batches: Sequence[Inputs]) -> None:
        """Take the inputs that all networks are run on."""
        self.skipped = 0.0
        self._batches = batches
        self._base: nn.Module | None = None
        self._passes: list[_Pass] = []

    def outputs(self, model: nn.Module, base: nn.Module) -> list[Any] | None:
        """Return a network's output, or the class scores in it, for every batch.

        None if it must be run in full.

        Args:
            model: the network; it is left as it is.
            base: another one, the same object every time. It is run, never changed from outside.
        """
        self.skipped = 0.0
        try:
            if base is not self._base:
                self._begin(base)
            return self._outputs(replica(model), base)
        except Exception:
            # Networks that do odd things are run as they are, and so is all else on this base. A
            # fault of the network's own is met again there.
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
        if not all(starts.values()) or not starts or self._bytes(starts) > MOST_BYTES:
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

"""What may shape a network in training besides its loss; the loop calls it at fixed moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Moment:
    """When in a training run something happens.

    Attributes:
        step: number of steps before this one.
        steps_per_epoch: steps of a pass over the samples.
        completed: completed fraction of the run, in [0, 1], as the step began.
        rate: learning rate of the step.
    """

    step: int
    steps_per_epoch: int
    completed: float
    rate: float

    @property
    def epoch(self) -> int:
        """Number of whole passes once the step is made."""
        return (self.step + 1) // self.steps_per_epoch

    @property
    def ends_epoch(self) -> bool:
        """Whether the step is the last one of a pass."""
        return (self.step + 1) % self.steps_per_epoch == 0


class Hooks:
    """Called at fixed moments of a run, with the network in training; here nothing happens.

    Attributes:
        keeps_last: whether the run hands over the network of its last validation. By default it is
            the best one by the validations, which is not what a network is shaped for.
    """

    keeps_last: bool = False

    def start(self, network: nn.Module) -> None:
        """Begin; the optimizer is made afterwards."""

    def called(self, network: nn.Module) -> nn.Module:
        """Return the network that is called in training, which shares the tensors of this one."""
        return network

    def further_outputs(self) -> Sequence[Tensor]:
        """Return outputs of the last call that learn what the network's own outputs learn."""
        return ()

    def loss(self, network: nn.Module) -> Float[Tensor, ""] | None:
        """Return what is added to the loss of a step; None for nothing."""
        return None

    def after_backward(self, network: nn.Module, now: Moment) -> None:
        """Change gradients, or add to them; they are clipped already."""

    def after_step(self, network: nn.Module, now: Moment) -> None:
        """Change tensors once the optimizer has done so."""

    def after_epoch(self, network: nn.Module, now: Moment) -> None:
        """Change tensors at the end of a pass over the samples."""

    def finish(self, network: nn.Module) -> nn.Module:
        """Return the plain network of a copy in evaluation mode, which may be changed.

        Its outputs are those of the network in training, evaluated.
        """
        return network

    def state(self) -> dict[str, Any]:
        """Return tensors and plain values from which a run goes on exactly."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""

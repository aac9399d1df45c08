"""One learnt factor for every unit, in front of all layers that read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoprune.methods.base import TrainingMethod
from autoprune.methods.units import Reweighted, along
from autoprune.structure.groups import ChannelGroup


class GatedMethod(TrainingMethod):
    """Learns gates: a channel is multiplied by its gate wherever a layer reads it.

    That is the same as multiplying what the layers' weights have for the channel, so gates need no
    place of their own in the network, are folded exactly, and a gate of zero is an exact cut.
    Groups that no layer reads, or whose readers keep their values, have none.

    Attributes:
        gates: by group; they are not among the optimizer's parameters.
    """

    gates: dict[str, Float[Tensor, " _units"]]

    def start(self, network: nn.Module) -> None:
        """Set all gates to one."""
        like = next(network.parameters())
        self.gates = {
            group.name: torch.ones(group.size, device=like.device, requires_grad=True)
            for group in self.goal.structure.groups
            if _may_have_gates(group, network)
        }

    def called(self, network: nn.Module) -> nn.Module:
        """Return the network that multiplies channels by their gates."""
        return Reweighted(network, self._weights)

    def _weights(self, network: nn.Module) -> Mapping[str, Tensor]:
        found: dict[str, Tensor] = {}
        for group in self.goal.structure.groups:
            for part in group.consumers if group.name in self.gates else ():
                weight = found.get(part.tensor, network.get_parameter(part.tensor))
                found[part.tensor] = weight * along(self.gates[group.name], part, weight)
        return found

    def finish(self, network: nn.Module) -> nn.Module:
        """Fold the gates into the weights."""
        with torch.no_grad():
            for name, weight in self._weights(network).items():
                network.get_parameter(name).copy_(weight)
        return network

    def state(self) -> dict[str, Any]:
        """Return the gates."""
        return {"gates": {name: gate.detach().clone() for name, gate in self.gates.items()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        with torch.no_grad():
            for name, gate in state["gates"].items():
                self.gates[name].copy_(gate)


def _may_have_gates(group: ChannelGroup, network: nn.Module) -> bool:
    readers = [network.get_parameter(part.tensor) for part in group.consumers]
    return bool(readers) and not group.mixed and all(one.requires_grad for one in readers)

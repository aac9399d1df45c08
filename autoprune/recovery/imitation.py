"""How far a cut network is from the dense one, inside and at its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.precision import at_least_single
from autoprune.errors import ModelError
from autoprune.statistics.consumers import LayerMode
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.inputs import Inputs, outputs_of, run
from autoprune.structure.surgery import Keep

# Activations of a smaller mean square are as good as zero.
SMALLEST_POWER = 1e-6


@dataclass(frozen=True, eq=False)
class Reading:
    """What one forward pass gave.

    Attributes:
        inside: what every layer read, by the layer's weight name.
        outputs: floating outputs, by their place in what the network returned.
    """

    inside: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


class _Reader(LayerMode):
    """Keeps what the layers read; of a layer that runs several times, at its last call."""

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        super().__init__(model, structure)
        self.inside: dict[str, Tensor] = {}

    def visit(self, layer: LayerSpec, source: Tensor) -> Tensor:
        """Keep the input of an ungrouped layer: its weight says which channels were cut."""
        if layer.groups == 1:
            self.inside[layer.weight] = source
        return source


class Imitation:
    """Compares networks cut by one policy with the dense network, in all that their layers read.

    What a layer reads lies behind BN and activation and has the residual sums in it; channels that
    were cut have no counterpart and are left out. Outputs are compared where they are floating
    numbers and of one shape for one batch; whole numbers (classes that were chosen already) say
    nothing of the direction to go.
    """

    def __init__(self, dense: nn.Module, structure: Structure, keep: Keep, inputs: Inputs) -> None:
        """Take the dense network, the entries that stay, and a batch to learn what is usual.

        Raises:
            ModelError: there is nothing to compare.
        """
        self._structure = structure
        self._keep = keep
        with torch.no_grad():
            usual = self.read(dense, inputs)
        self._inside_powers = _powers(usual.inside, lambda value: value)
        self._output_powers = _powers(usual.outputs, lambda value: value - value.mean())
        if not (self._inside_powers or self._output_powers):
            raise ModelError(
                "there is nothing to imitate: the network returns no finite floating numbers, and "
                "what its layers read is not known."
            )

    def read(self, model: nn.Module, inputs: Inputs) -> Reading:
        """Run a network, the dense one or a cut one."""
        with _Reader(model, self._structure) as reader:
            found = outputs_of(run(model, inputs))
        floating = {place: one for place, one in found.items() if one.is_floating_point()}
        return Reading(reader.inside, floating)

    def is_finite(self, reading: Reading) -> bool:
        """Whether the outputs hold neither NaN nor infinity; what layers read, without outputs."""
        outputs = [reading.outputs[p] for p in self._output_powers if p in reading.outputs]
        return all(bool(one.isfinite().all()) for one in outputs or reading.inside.values())

    def distance(self, small: Reading, dense: Reading) -> Tensor:
        """Return the mean of ‖s − d‖² / ‖d‖² over what the layers read and the outputs.

        All outputs together count as one layer. The d below the line is what is usual, of an
        output about its mean. Nothing here depends on the task: class scores, maps of them and
        plain numbers are treated alike.
        """
        parts = [
            _difference(small.inside[name], self._kept(name, dense.inside[name])) / power
            for name, power in self._inside_powers.items()
            if name in small.inside
        ]
        outputs = [
            _difference(small.outputs[place], dense.outputs[place]) / power
            for place, power in self._output_powers.items()
            if _comparable(small.outputs.get(place), dense.outputs.get(place))
        ]
        if outputs:
            parts.append(torch.stack(outputs).mean())
        return torch.stack(parts).mean()

    def _kept(self, weight: str, source: Tensor) -> Tensor:
        layer = self._structure.layer_of_weight[weight]
        kept = self._keep.get(weight, {}).get(layer.in_dim)
        if kept is None:
            return source
        return source.index_select(1 if layer.kernel_size else -1, kept)


def _difference(one: Tensor, other: Tensor) -> Tensor:
    return F.mse_loss(at_least_single(one), at_least_single(other))


def _comparable(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether both are there and of one shape: how many boxes are found differs by network."""
    return one is not None and other is not None and one.shape == other.shape and one.numel() > 0


def _powers(values: Mapping[str, Tensor], centred: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return the mean squares of what is finite, by name."""
    found = {
        name: centred(at_least_single(value)).square().mean() for name, value in values.items()
    }
    return {
        name: power.clamp_min(SMALLEST_POWER)
        for name, power in found.items()
        if bool(power.isfinite())
    }

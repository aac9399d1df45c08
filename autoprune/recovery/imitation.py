"""How far a cut network is from the dense one, inside and at its output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import ModelError, type_of
from autoprune.statistics.consumers import LayerMode
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.inputs import run
from autoprune.structure.surgery import Keep

# Activations of a smaller mean square are as good as zero.
SMALLEST_POWER = 1e-6


@dataclass(frozen=True, eq=False)
class Reading:
    """What one forward pass gave.

    Attributes:
        inside: what every layer read, by the layer's weight name.
        output: (samples, ...).
    """

    inside: Mapping[str, Tensor]
    output: Tensor

    @property
    def is_finite(self) -> bool:
        """Whether the output holds neither NaN nor infinity."""
        return bool(self.output.isfinite().all())


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
    were cut have no counterpart and are left out.
    """

    def __init__(self, dense: nn.Module, structure: Structure, keep: Keep, inputs: Tensor) -> None:
        """Take the dense network, the entries that stay, and a batch to learn what is usual.

        Raises:
            ModelError: its output is no tensor.
        """
        self._structure = structure
        self._keep = keep
        with torch.no_grad():
            usual = self.read(dense, inputs)
        centred = usual.output - usual.output.mean()
        self._powers = {name: _power(source) for name, source in usual.inside.items()}
        self._output_power = _power(centred)

    def read(self, model: nn.Module, inputs: Tensor) -> Reading:
        """Run a network, the dense one or a cut one.

        Raises:
            ModelError: its output is no tensor.
        """
        with _Reader(model, self._structure) as reader:
            output = run(model, inputs)
        if not isinstance(output, Tensor):
            raise ModelError(
                f"recovery needs a network that returns a tensor, not {type_of(output)}."
            )
        return Reading(reader.inside, output)

    def distance(self, small: Reading, dense: Reading) -> Tensor:
        """Return the mean of ‖s − d‖² / ‖d‖² over what the layers read and the output.

        The d below the line is what is usual, of the output about its mean. Nothing here depends
        on the task: class scores, maps of them and plain numbers are treated alike.
        """
        parts = [
            F.mse_loss(source, self._kept(name, dense.inside[name])) / self._powers[name]
            for name, source in small.inside.items()
        ]
        parts.append(F.mse_loss(small.output, dense.output) / self._output_power)
        return torch.stack(parts).mean()

    def _kept(self, weight: str, source: Tensor) -> Tensor:
        layer = self._structure.layer_of_weight[weight]
        kept = self._keep.get(weight, {}).get(layer.in_dim)
        if kept is None:
            return source
        return source.index_select(1 if layer.kernel_size else -1, kept)


def _power(value: Tensor) -> Tensor:
    return value.square().mean().clamp_min(SMALLEST_POWER)

"""Distance of a cut network from the dense one, at the layers' inputs and at the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from autoprune.core.precision import at_least_single
from autoprune.errors import ModelError
from autoprune.statistics.consumers import LayerMode
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.inputs import Inputs, outputs_of, run
from autoprune.structure.output_distance import Distance, users_distance
from autoprune.structure.surgery import Keep

# Smaller mean squares of activations count as zero.
SMALLEST_POWER = 1e-6


@dataclass(frozen=True, eq=False)
class Recorded:
    """Activations of one forward pass.

    Attributes:
        inputs: input of every layer, by the layer's weight name.
        outputs: floating-point outputs, by their place in the network's return value.
        returned: that value.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    returned: Any


class _InputRecorder(LayerMode):
    """Records the inputs of the layers, at the last call of each."""

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        super().__init__(model, structure)
        self.inputs: dict[str, Tensor] = {}

    def visit(self, layer: LayerSpec, source: Tensor) -> Tensor:
        """Record the input of an ungrouped layer, whose weight tells which channels were cut."""
        if layer.groups == 1:
            self.inputs[layer.weight] = source
        return source


class Imitation:
    """Compares networks cut by one policy with the dense network at the inputs of all layers.

    These inputs lie behind BN and activation and contain the residual sums. Channels that were cut
    have no counterpart and are left out. Outputs are compared where they are floating-point tensors
    of the same shape in both networks; integers (predicted classes, say) have no gradient. The
    user's own distance of outputs takes the place of that comparison.
    """

    def __init__(
        self,
        dense: nn.Module,
        structure: Structure,
        keep: Keep,
        inputs: Inputs,
        output_distance: Distance | None = None,
    ) -> None:
        """Measure the mean squares that distances are divided by.

        Args:
            dense: the dense network.
            structure: structure of the network.
            keep: kept entries of every tensor.
            inputs: a batch of calibration data.
            output_distance: the user's own distance of outputs.

        Raises:
            ModelError: there is nothing to compare.
        """
        self._structure = structure
        self._keep = keep
        self._output_distance = output_distance
        with torch.no_grad():
            usual = self.record(dense, inputs)
        self._input_powers = _powers(usual.inputs, lambda value: value)
        self._output_powers = _powers(usual.outputs, lambda value: value - value.mean())
        if not (self._input_powers or self._output_powers):
            raise ModelError(
                "there is nothing to imitate: the network returns no finite floating numbers, and "
                "what its layers read is not known."
            )

    def record(self, model: nn.Module, inputs: Inputs) -> Recorded:
        """Run the dense network or a cut one, and return its activations."""
        with _InputRecorder(model, self._structure) as recorder:
            returned = run(model, inputs)
        found = outputs_of(returned)
        floating = {place: one for place, one in found.items() if one.is_floating_point()}
        return Recorded(recorder.inputs, floating, returned)

    def is_finite(self, recorded: Recorded) -> bool:
        """Whether all outputs are finite; the inputs of the layers, if there are no outputs."""
        outputs = [recorded.outputs[p] for p in self._output_powers if p in recorded.outputs]
        return all(bool(one.isfinite().all()) for one in outputs or recorded.inputs.values())

    def distance(self, small: Recorded, dense: Recorded) -> Float[Tensor, ""]:
        """Return the mean of ‖s − d‖² / ‖d‖² over the inputs of the layers and the outputs.

        All outputs together count as one layer. The denominator is that of the calibration batch;
        for outputs it is taken about their mean. The distance does not depend on the task: class
        scores, segmentation maps and regression outputs are treated alike.

        Args:
            small: activations of the cut network.
            dense: activations of the dense network on the same batch.

        Raises:
            EvaluateError: the user's distance raises, or returns no scalar.
        """
        kept = {name: self._kept(name, dense.inputs[name]) for name in self._input_powers}
        return self.between(small, replace(dense, inputs=kept))

    def between(self, one: Recorded, other: Recorded) -> Float[Tensor, ""]:
        """Return the same distance of two networks that have the same channels.

        Layers that are in neither any more, with the branch that they were in, do not count.
        """
        pairs = [
            (name, one.inputs.get(name), other.inputs.get(name)) for name in self._input_powers
        ]
        parts = [
            _difference(own, wanted) / self._input_powers[name]
            for name, own, wanted in pairs
            if own is not None and wanted is not None
            if own.shape == wanted.shape  # regions that are found may differ
        ]
        return torch.stack([*parts, *self._between_outputs(one, other)]).mean()

    def _between_outputs(self, small: Recorded, dense: Recorded) -> list[Float[Tensor, ""]]:
        """Return the distance of all outputs together, if they can be compared."""
        if self._output_distance is not None:
            return [users_distance(self._output_distance, small.returned, dense.returned)]
        outputs = [
            _difference(small.outputs[place], dense.outputs[place]) / power
            for place, power in self._output_powers.items()
            if _comparable(small.outputs.get(place), dense.outputs.get(place))
        ]
        return [torch.stack(outputs).mean()] if outputs else []

    def _kept(self, weight: str, source: Shaped[Tensor, " ..."]) -> Shaped[Tensor, " ..."]:
        """Return the channels of a layer's input that the cut network has."""
        layer = self._structure.layer_of_weight[weight]
        kept = self._keep.get(weight, {}).get(layer.in_dim)
        if kept is None:
            return source
        return source.index_select(1 if layer.kernel_size else -1, kept)


def _difference(
    one: Float[Tensor, " *shape"], other: Float[Tensor, " *shape"]
) -> Float[Tensor, ""]:
    return F.mse_loss(at_least_single(one), at_least_single(other))


def _comparable(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether both exist with the same shape: the number of detected boxes may differ."""
    return one is not None and other is not None and one.shape == other.shape and one.numel() > 0


def _powers(
    values: Mapping[str, Tensor], centred: Callable[[Tensor], Tensor]
) -> dict[str, Float[Tensor, ""]]:
    """Return mean squares by name, where they are finite."""
    found = {
        name: centred(at_least_single(value)).square().mean() for name, value in values.items()
    }
    return {
        name: power.clamp_min(SMALLEST_POWER)
        for name, power in found.items()
        if bool(power.isfinite())
    }

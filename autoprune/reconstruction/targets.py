"""Targets of a sequential reconstruction: the dense network's outputs at sampled positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.reconstruction.layerwise import LayerCall, LayerwisePass
from autoprune.statistics.moments import draw_positions, outputs_at
from autoprune.structure.groups import LayerSpec

# Memory for the targets of one row, on average: layers with more outputs get fewer rows, as long as
# these are enough.
ROW_BYTES = 256
# Rows per input below which a fit overfits the samples; twice as many are drawn.
ENOUGH = 2


@dataclass(frozen=True, eq=False)
class Target:
    """Activations of the dense network at a layer's sampled positions.

    Attributes:
        positions: flat indices into `LayerSpec.space`.
        outputs: outputs of the layer.
        shortcut: activation that is added behind the layer's BN; None if there is none.
    """

    positions: Int[Tensor, "samples positions"]
    outputs: Float[Tensor, "samples*positions outputs"]
    shortcut: Float[Tensor, "samples*positions outputs"] | None


def record_targets(
    dense: nn.Module, layers: Mapping[str, LayerSpec], samples: Samples, seed: int, rows: int
) -> dict[str, Target]:
    """Return the targets of some layers, by weight name.

    Args:
        dense: the dense network in evaluation mode.
        layers: the layers, by weight name.
        samples: calibration data, run as one batch.
        seed: seed for sampling positions.
        rows: number of rows per layer (see `rows_to_draw`).
    """
    recording = _Recording(dense, layers, seed, rows)
    recording.run(samples)
    return recording.targets


def rows_to_draw(most: int, outputs: int, inputs: int) -> int:
    """Return how many rows to draw for a layer.

    Args:
        most: largest number of rows, unless a layer needs more for its inputs.
        outputs: rows of the layer's weight as a matrix.
        inputs: its columns.
    """
    return max(min(most, most * ROW_BYTES // (4 * outputs)), 2 * ENOUGH * inputs)


class _Recording(LayerwisePass):
    def __init__(
        self, dense: nn.Module, layers: Mapping[str, LayerSpec], seed: int, rows: int
    ) -> None:
        super().__init__(dense, layers)
        self._rows = rows
        self._generator = torch.Generator().manual_seed(seed)
        self.targets: dict[str, Target] = {}

    def visit(
        self, layer: LayerSpec, call: LayerCall, shortcut: Float[Tensor, "samples ..."] | None
    ) -> Float[Tensor, "samples ..."]:
        out = call.run()
        weight = self._model.get_parameter(layer.weight)
        per_sample = -(-rows_to_draw(self._rows, *weight.flatten(1).shape) // len(out))
        chosen = draw_positions(layer, len(out), per_sample, self._generator)
        added = None if shortcut is None else outputs_at(layer, shortcut, chosen)
        self.targets[layer.weight] = Target(chosen, outputs_at(layer, out, chosen), added)
        return out

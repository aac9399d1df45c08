"""Input moments of every refittable consumer, collected in one pass over the calibration data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.statistics.consumers import LayerMode
from autoprune.statistics.moments import Moments, MomentSum, is_laid_out, matrix_of
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.inputs import run

POSITIONS_PER_SAMPLE = 32
BATCH = 250


def collect_moments(
    model: nn.Module,
    structure: Structure,
    samples: Samples,
    seed: int,
    positions: int = POSITIONS_PER_SAMPLE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Moments]:
    """Return the input moments of every refittable consumer, by weight name.

    Args:
        model: the dense network in evaluation mode.
        structure: structure of the network.
        samples: calibration data.
        seed: seed for sampling positions.
        positions: number of patches per sample and layer.
        progress: called with the number of samples seen and their total.
    """
    collecting = _Collecting(model, structure, seed, positions)
    seen = 0
    with torch.no_grad(), collecting:
        for batch in samples.batches_within(BATCH):
            run(model, batch.inputs)
            seen += len(batch)
            progress(seen, len(samples))
    # Inputs whose layout never matches the traced one are skipped: such a layer has no moments.
    return {weight: total.moments() for weight, total in collecting.sums.items() if total.count}


class _Collecting(LayerMode):
    """Sums up the moments of every refittable consumer's inputs.

    Attributes:
        sums: moment sums by weight name.
    """

    def __init__(self, model: nn.Module, structure: Structure, seed: int, positions: int) -> None:
        super().__init__(model, structure)
        self._positions = positions
        self._generator = torch.Generator().manual_seed(seed)
        self.sums: dict[str, MomentSum] = {}
        for layer in structure.layers:
            if layer.refittable and layer.weight in structure.feeds:
                weight = model.get_parameter(layer.weight)
                inputs = matrix_of(layer, weight).shape[1]
                self.sums[layer.weight] = MomentSum(layer, inputs, weight.device)

    def visit(self, layer: LayerSpec, source: Tensor) -> Tensor:
        """Add a layer's input if it has the traced resolution, which represents all others."""
        if layer.weight in self.sums and is_laid_out(layer, source):
            self.sums[layer.weight].add(source, self._positions, self._generator)
        return source

"""Statistics of the dense network, gathered in one pass over the calibration data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.statistics.moments import Moments, MomentSum, is_laid_out
from autoprune.structure.groups import LayerSpec, Structure

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
        structure: its groups.
        samples: calibration data.
        seed: of the sampled positions.
        positions: patches per sample and layer.
        progress: told the samples seen and their total.
    """
    layers = [
        layer for layer in structure.layers if layer.refittable and layer.weight in structure.feeds
    ]
    sums: dict[str, MomentSum] = {}
    generator = torch.Generator().manual_seed(seed)
    with ExitStack() as stack, torch.inference_mode():
        for layer in layers:
            weight = model.get_parameter(layer.weight)
            sums[layer.weight] = MomentSum(layer, weight[0].numel(), weight.device)
            hook = _hook(layer, sums, positions, generator)
            module = model.get_submodule(layer.name)
            handle = module.register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        seen = 0
        for batch in samples.batches_within(BATCH):
            model(batch.inputs)
            seen += len(batch)
            progress(seen, len(samples))
    # A module whose weight is used without calling the module shows no inputs.
    return {weight: total.moments() for weight, total in sums.items() if total.count}


def _hook(
    layer: LayerSpec, sums: Mapping[str, MomentSum], positions: int, generator: torch.Generator
) -> Callable[[nn.Module, Any, Any], None]:
    def add(module: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> None:
        source = args[0] if args else kwargs["input"]
        # A shared layer may run at other resolutions too; its first one stands for all.
        if is_laid_out(layer, source):
            sums[layer.weight].add(source, positions, generator)

    return add

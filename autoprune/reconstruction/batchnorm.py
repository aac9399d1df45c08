"""Re-estimation of batch-norm statistics on clean data."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.data import Samples

BATCH = 250


def reestimate_batchnorm(model: nn.Module, samples: Samples) -> None:
    """Replace running means and variances by those of the samples, in place.

    Cumulative averages over fixed batches; only BN layers are in training mode, so that dropout and
    the like stay off.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    try:
        with torch.no_grad():
            for batch in samples.batches(min(BATCH, len(samples))):
                model(batch.inputs)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()

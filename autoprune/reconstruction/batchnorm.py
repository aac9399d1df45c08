"""Batch norm: re-estimating statistics, and folding a BN into the layer before it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from autoprune.core.precision import at_least_single
from autoprune.data import Samples
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.inputs import run_pruned
from autoprune.structure.layers import LAYER_MODULES
from autoprune.structure.surgery import deep_copy, named_tensors

BATCH = 250
# BN gains |γ|/σ below this fraction of the layer's largest are not divided by.
SMALLEST_GAIN = 1e-3


def reestimate_batchnorm(
    model: nn.Module, samples: Samples, untouched: Collection[str] = ()
) -> None:
    """Replace running means and variances by those of the samples, in place.

    Statistics are cumulative averages over equal batches. Only BN layers are put into training
    mode, so that dropout and the like stay off. Pruning changes what every BN reads, so that the
    statistics of a BN with frozen parameters are replaced, too.

    Args:
        model: the network.
        samples: calibration data.
        untouched: names of the running means to leave unchanged, with their variances.
    """
    layers = [
        module
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and module.track_running_stats
        and f"{path}.running_mean" not in untouched
    ]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    try:
        with torch.no_grad():
            # Equal batches have equal weights, and a BN cannot train on a single leftover sample.
            for batch in samples.batches_within(BATCH):
                run_pruned(model, batch.inputs)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()


def fold_batchnorm(model: nn.Module, structure: Structure, to_train: bool = False) -> nn.Module:
    """Return a copy in which every BN that is a layer's only reader is folded into that layer.

    The outputs stay the same, and a forward pass on a CPU takes about a third less time. Kernels
    are stored channels last, as `Samples.to` stores images.

    Args:
        model: the network.
        structure: structure of the network, or of the one that it was cut from.
        to_train: whether to fold only pairs of which every tensor may change, so that training
            can be unfolded (`unfold_batchnorm`).
    """
    memo: dict[int, Any] = {}
    biases: dict[str, nn.Parameter] = {}
    layers = _changeable(structure) if to_train else structure.layers
    for name, module, bn in _foldable(model, layers):
        fuse = fuse_linear_bn_weights if isinstance(module, nn.Linear) else fuse_conv_bn_weights
        gain = torch.ones_like(bn.running_var) if bn.weight is None else bn.weight
        shift = torch.zeros_like(bn.running_mean) if bn.bias is None else bn.bias
        mean, variance, gain, shift = map(
            at_least_single, (bn.running_mean, bn.running_var, gain, shift)
        )
        # Fused in the precision of the BN, and stored in that of the weight.
        weight, biases[name] = fuse(module.weight, module.bias, mean, variance, bn.eps, gain, shift)
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        # Replaced tensors and modules need not be copied.
        memo |= {id(module.weight): weight, id(bn): nn.Identity()}
    folded = deep_copy(model, memo)
    for name, bias in biases.items():
        folded.get_submodule(name).bias = bias
    return folded


@torch.no_grad()
def unfold_batchnorm(folded: nn.Module, model: nn.Module, structure: Structure) -> nn.Module:
    """Return a copy of a network that computes the same as a trained, folded copy of it.

    Where the gain of a BN is too small to divide by, it becomes one. The running mean is changed
    only if the BN has no shift.

    Args:
        folded: result of `fold_batchnorm(…, to_train=True)`, with parameters changed since.
        model: the network before folding; it is not changed.
        structure: the structure that it was folded with.
    """
    unfolded = deep_copy(model)
    values, own = named_tensors(folded), named_tensors(unfolded)
    # The bias of the layer stays: the shift of the BN takes up the learned one.
    layers = _changeable(structure)
    before = {name: _bias(module).clone() for name, module, _ in _foldable(unfolded, layers)}
    for name in own.keys() & values.keys():
        own[name].copy_(values[name])
    for name, module, bn in _foldable(unfolded, layers):
        trained, bias = folded.get_submodule(name), before[name]
        deviation = (at_least_single(bn.running_var) + bn.eps).sqrt()
        gain = 1 / deviation
        if bn.weight is not None:
            gain = bn.weight / deviation
            # "<=" and not "<": all gains may be zero.
            gain = torch.where(gain.abs() <= SMALLEST_GAIN * gain.abs().max(), 1.0, gain)
            bn.weight.copy_(gain * deviation)
        by_output = (-1, *[1] * (module.weight.dim() - 1))
        module.weight.copy_(trained.weight / gain.reshape(by_output))
        if module.bias is not None:
            module.bias.copy_(bias)
        if bn.bias is not None:
            bn.bias.copy_(trained.bias + gain * (bn.running_mean - bias))
        else:
            bn.running_mean.copy_(bias - trained.bias / gain)
    return unfolded


def _bias(module: Any) -> Float[Tensor, " outputs"]:
    """Return a layer's bias; zeros if it has none."""
    bias: Tensor = (
        module.weight.new_zeros(len(module.weight)) if module.bias is None else module.bias
    )
    return bias


def _changeable(structure: Structure) -> list[LayerSpec]:
    """Return the layers of which every tensor may change, the BN's gains and shifts included."""
    return [
        layer
        for layer in structure.layers
        if structure.untouched.isdisjoint(
            (layer.weight, layer.bias, f"{layer.batchnorm}.weight", f"{layer.batchnorm}.bias")
        )
    ]


def _foldable(model: nn.Module, layers: Sequence[LayerSpec]) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, module and BN of every layer into which its BN can be folded."""
    own = {name for name, _ in model.named_parameters()}
    for layer in layers:
        if layer.weight not in own:
            continue  # its branch is gone
        if layer.batchnorm is None or layer.is_transposed or layer.calls > 1:
            continue
        if not layer.is_module:
            continue  # the weight does not belong to a module of PyTorch
        module, bn = model.get_submodule(layer.name), model.get_submodule(layer.batchnorm)
        if not isinstance(module, LAYER_MODULES):
            continue
        if not layer.takes_bias:
            continue  # its weight is used without the module's bias
        if not isinstance(bn, _BatchNorm) or bn.running_mean is None or bn.running_var is None:
            continue
        if type(bn).forward is not _BatchNorm.forward:
            continue  # it does more than normalise
        yield layer.name, module, bn

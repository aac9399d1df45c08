"""Importance of the network's final responses, propagated back to every layer's inputs.

Propagating |W|ᵀ s through every layer is the backward pass of the network with absolute weights
(BN scales included, biases left out), so that residual sums, concatenations and pooling need no
rules.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.data.forms import Inputs, map_tensors
from autoprune.errors import ModelError, user_code
from autoprune.statistics.gradients import GradientTap
from autoprune.statistics.moments import Moments
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import run
from autoprune.structure.surgery import deep_copy
from autoprune.structure.tracing.operators import plain_arithmetic

# Value of all inputs: so small that no ReLU6 or gate saturates, however much layers amplify it.
SMALL = 1e-120
# r of Inf-FS as a fraction of the value at which its series diverges, and α, which weighs spread
# against correlation.
INF_FS_REACH = 0.9
INF_FS_ALPHA = 0.5


def propagate(
    model: nn.Module, structure: Structure, moments: Mapping[str, Moments], inputs: Inputs
) -> dict[str, Float64[Tensor, " _channels"]]:
    """Return the importance of every layer's input channels, by weight name.

    Args:
        model: the dense network in evaluation mode.
        structure: structure of the network.
        moments: moments of the consumers' inputs, by weight name.
        inputs: one sample; only the shape of floating-point tensors is used.

    Raises:
        ModelError: the network does not run in double precision.
    """
    positive = absolute(model, structure)
    tap = GradientTap(positive, structure, 1, lambda values, gradient: gradient.sum(1))
    with user_code(_not_double), torch.enable_grad(), plain_arithmetic(), tap:
        run(positive, map_tensors(_tiny, inputs))
    assert tap.inputs is not None  # a network without layers has no groups
    layer, read = tap.inputs
    channels = read.movedim(1, -1) if layer.kernel_size else read
    importance = _final_importance(moments.get(layer.weight), channels)
    (channels * importance).sum().backward()
    return {weight: one[0].nan_to_num().abs().cpu() for weight, one in tap.found.items()}


def _tiny(one: Tensor) -> Tensor:
    if not one.is_floating_point():
        return one
    return torch.full_like(one, SMALL, dtype=torch.float64)


def _not_double(reason: str) -> ModelError:
    return ModelError(
        f"the network does not run in double precision: {reason}; choose another importance."
    )


def absolute(model: nn.Module, structure: Structure) -> nn.Module:
    """Return the network with absolute weights and BN gains |γ|/σ, no biases, in float64."""
    plain = deep_copy(model).double().eval().requires_grad_(False)
    for layer in structure.layers:
        plain.get_parameter(layer.weight).abs_()
        if layer.bias is not None:
            plain.get_parameter(layer.bias).zero_()
    for module in plain.modules():
        if isinstance(module, _BatchNorm):
            if module.weight is not None:
                module.weight.abs_()
                module.bias.zero_()
            if module.running_mean is not None:
                module.running_mean.zero_()
    return plain


def _final_importance(
    moments: Moments | None, responses: Float64[Tensor, "*positions channels"]
) -> Float64[Tensor, " channels"]:
    channels = responses.shape[-1]
    if moments is None:
        return torch.ones(channels, dtype=torch.float64, device=responses.device)
    return infinite_selection(moments, channels)


def infinite_selection(moments: Moments, channels: int) -> Float64[Tensor, " {channels}"]:
    """Return the scores of a layer's input channels by infinite feature selection, summing to 1.

    The edge between two features weighs α max(σᵢ, σⱼ) + (1 − α)(1 − |correlation|), and the score
    of a feature sums the weights of all paths from it, (I − r A)⁻¹ − I (Roffo et al. 2015).
    Constant features score zero.
    """
    taps = len(moments.mean) // channels
    covariance = moments.covariance
    if moments.is_full:
        covariance = covariance[::taps, ::taps]
    else:
        covariance = covariance[::taps].diag()
    deviation = covariance.diagonal().clamp_min(0.0).sqrt()
    spread = deviation / deviation.max().clamp_min(1e-30)
    known = deviation.clamp_min(1e-30)
    correlation = (covariance / torch.outer(known, known)).abs().clamp_max(1.0)
    larger = torch.maximum(spread[:, None], spread)
    weights = INF_FS_ALPHA * larger + (1 - INF_FS_ALPHA) * (1 - correlation)
    # Constants are uncorrelated with all other features, but carry no information.
    weights = weights * torch.outer(spread > 0, spread > 0)
    reach = INF_FS_REACH / torch.linalg.eigvalsh(weights).abs().max().clamp_min(1e-30)
    identity = torch.eye(channels, dtype=weights.dtype, device=weights.device)
    scores: Tensor = torch.linalg.solve(identity - reach * weights, weights.sum(1) * reach)
    return scores / scores.sum().clamp_min(1e-30)

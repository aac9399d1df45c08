"""Optimizers by name, and which parameters they change."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

MOMENTUM = 0.9
# Steps that are tried until one moves the network little enough, and what the rate falls by where
# one is not finite.
TRIED, BACK_OFF = 6, 0.25

_MAKE: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, nesterov=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.0),
}


def make_optimizer(network: nn.Module, name: str, decay: float) -> torch.optim.Optimizer:
    """Return an optimizer of all parameters that require gradients.

    Biases and the parameters of normalisation layers, which are vectors, do not decay (He et al.
    2019, "Bag of tricks", section 3.1).

    Args:
        network: whose parameters change.
        name: a key of `choices.OPTIMIZERS`.
        decay: weight decay of matrices and kernels.
    """
    free = [one for one in network.parameters() if one.requires_grad]
    matrices, vectors = ([p for p in free if (p.dim() > 1) is wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return _MAKE[name]([group for group in groups if group["params"]])


def rate_within(rate: float, moved: Callable[[float], float], most: float) -> float:
    """Return a learning rate, lowered until its first step moves a network little enough.

    A first step of Adam has the same relative size in all layers. How far that moves a network
    depends on how errors add up along its layers, and on the size of the batch.

    Args:
        rate: the largest.
        moved: how far a step at a rate moves the network, in about the square of the rate.
        most: how far it may; after `TRIED` steps the rate is what the last one asks for.
    """
    for _ in range(TRIED):
        distance = moved(rate)
        if distance <= most or not math.isfinite(most):
            break
        rate *= math.sqrt(most / distance) if distance < math.inf else BACK_OFF
    return rate


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups, of those with a share to that share of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("share", 1.0)

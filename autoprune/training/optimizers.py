"""Optimizers by name, and which parameters they change."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

MOMENTUM = 0.9

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


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups, of those with a share to that share of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("share", 1.0)

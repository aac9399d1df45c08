"""Networks that compute their losses themselves: detectors, told what images show in training."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoprune.data.batches import TARGETS
from autoprune.errors import ModelError, type_of

# Names of the sum of all losses in what a network returns.
SUM = "loss"


def annotations_argument(network: nn.Module) -> str | None:
    """Return the name of the argument by which a network takes annotations; None if it has none."""
    parameters = inspect.signature(network.forward).parameters
    return next((name for name in TARGETS if name in parameters), None)


def own_loss(outputs: Any) -> Float[Tensor, ""]:
    """Return the sum of the losses that a network returns, or the one that it calls "loss".

    Raises:
        ModelError: it returns no mapping of scalars.
    """
    losses = dict(outputs) if isinstance(outputs, Mapping) else {}
    found = [losses[SUM]] if isinstance(losses.get(SUM), Tensor) else [*losses.values()]
    if not found or not all(isinstance(one, Tensor) and one.numel() == 1 for one in found):
        raise ModelError(
            f"in training the network returns {type_of(outputs)}, which is no mapping of losses: "
            "give a loss(outputs, targets)."
        )
    return torch.stack([one.reshape(()) for one in found]).sum()

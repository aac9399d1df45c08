"""How far a network's outputs are from the dense network's, whatever the task is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from autoprune.core.precision import at_least_single
from autoprune.errors import EvaluateError, ModelError, type_of, user_code
from autoprune.structure.inputs import outputs_of

Distance: TypeAlias = Callable[[Any, Any], Any]
"""(a network's outputs, the dense network's) → scalar tensor: 0 where they are equal, about 1 where
they have nothing in common; both are what the networks return."""

# Smaller variances of outputs count as this, so that constant outputs can be imitated.
SMALLEST_VARIANCE = 1e-6


def output_distance(outputs: Any, answers: Any) -> Float[Tensor, ""]:
    """Return the mean over floating outputs of their squared error, in units of their variance.

    Raises:
        ModelError: no floating output has the same shape in both.
    """
    own, dense = outputs_of(outputs), outputs_of(answers)
    pairs = [
        (own[place], dense[place])
        for place in dense
        if dense[place].is_floating_point()
        and place in own
        and own[place].shape == dense[place].shape
    ]
    if not pairs:
        raise ModelError(
            "the network has no floating outputs of the same shape as the dense one's, so that "
            "nothing can be compared or imitated."
        )
    return torch.stack([_relative_error(*pair) for pair in pairs]).mean()


def _relative_error(
    one: Shaped[Tensor, " *shape"], answer: Shaped[Tensor, " *shape"]
) -> Float[Tensor, ""]:
    wide = at_least_single(answer)
    power = (wide - wide.mean()).square().mean().clamp_min(SMALLEST_VARIANCE)
    return F.mse_loss(at_least_single(one), wide) / power


def users_distance(distance: Distance, outputs: Any, answers: Any) -> Float[Tensor, ""]:
    """Return what the user's distance says of two outputs.

    Raises:
        EvaluateError: it raises, or returns no scalar tensor.
    """
    with user_code(lambda reason: EvaluateError(f"distance(outputs, dense) raised {reason}")):
        found = distance(outputs, answers)
    if not isinstance(found, Tensor) or math.prod(found.shape) != 1:
        seen = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type_of(found)
        raise EvaluateError(
            f"distance(outputs, dense) must return a scalar tensor, but it returned {seen}."
        )
    return found.reshape(())

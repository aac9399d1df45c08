"""Least squares toward a prior, with targets that may leave open what a clamp hides."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from autoprune.core.precision import at_least_single

# Share of the mean input variance with which weights are pulled to what they were.
RIDGE = 1e-3

Affine: TypeAlias = tuple[Tensor, Tensor]
"""Scale and shift of outputs, each of a shape that broadcasts to (rows, outputs)."""


class RidgeToPrior:
    """argmin ‖wanted − inputs Wᵀ − c‖² / n + λ‖W − prior‖², for one target after the other.

    Attributes:
        weight: W of the last fit, (outputs, inputs).
        intercept: c of the last fit, (outputs,); zero where outputs cannot be shifted.
    """

    def __init__(self, inputs: Tensor, prior: Tensor, shifts: bool) -> None:
        """Factorise.

        Args:
            inputs: (rows, inputs); they may be written to.
            prior: (outputs, inputs).
            shifts: whether outputs can be shifted.
        """
        # Sums over many rows in half precision would leave nothing that can be factorised.
        inputs, prior = at_least_single(inputs), at_least_single(prior)
        self._mean = inputs.mean(0) if shifts else None
        self._inputs = inputs if self._mean is None else inputs.sub_(self._mean)
        self._prior = self.weight = prior
        self.intercept = prior.new_zeros(len(prior))
        gram = (self._inputs.T @ self._inputs).double() / len(inputs)
        self._prior_moment = gram @ prior.T.double()
        gram.diagonal().add_(RIDGE * float(gram.diagonal().mean()) or 1.0)
        self._factor = torch.linalg.cholesky(gram)

    def fit(self, wanted: Tensor) -> None:
        """Fit targets (rows, outputs)."""
        wanted = at_least_single(wanted)
        middle = torch.zeros_like(self.intercept) if self._mean is None else wanted.mean(0)
        moment = (self._inputs.T @ (wanted - middle)).double() / len(wanted)
        change = torch.cholesky_solve(moment - self._prior_moment, self._factor).T
        self.weight = self._prior + change.to(self._prior.dtype)
        self.intercept = middle
        if self._mean is not None:
            self.intercept = middle - self.weight @ self._mean

    def outputs(self) -> Tensor:
        """Return what the last fit gives, (rows, outputs)."""
        shift = 0.0 if self._mean is None else self.weight @ self._mean
        return self._inputs @ self.weight.T + (self.intercept + shift)


def passing(wanted: Tensor, into: Affine, clamp: tuple[float, float]) -> Callable[[Tensor], Tensor]:
    """Return what gives, for the outputs of a fit, the nearest targets that a clamp sees alike.

    Fitting these anew and anew minimises the convex one-sided loss: plain squares where the wanted
    output lies within the bounds, else squares of how far an output is within them.

    Args:
        wanted: targets, (rows, outputs).
        into: how outputs are scaled and shifted on their way into the clamp; where the scale is
            infinite or zero, the target stays.
        clamp: the bounds.
    """
    scale, shift = into
    able = scale.isfinite() & (scale != 0)
    ends = [(bound - shift) / torch.where(able, scale, 1.0) for bound in clamp]
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    sides = (
        (wanted.le(low) & able, low, torch.minimum),
        (wanted.ge(high) & able, high, torch.maximum),
    )
    hidden = [side for side in sides if side[0].any()]

    def targets(given: Tensor) -> Tensor:
        free = wanted
        for where, end, nearest in hidden:
            free = torch.where(where, nearest(given, end), free)
        return free

    return targets

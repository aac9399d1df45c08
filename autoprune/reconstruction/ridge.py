"""Ridge regression towards a prior, with targets that are free where a clamp follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from autoprune.core.precision import at_least_single

# Strength of the prior, as a fraction of the mean input variance.
RIDGE = 1e-3

Affine: TypeAlias = tuple[Float[Tensor, " *#scale"], Float[Tensor, " *#shift"]]
"""Scale and shift of outputs, each of a shape that broadcasts to (rows, outputs)."""


class RidgeToPrior:
    """argmin ‖targets − inputs Wᵀ − c‖² / rows + λ‖W − prior‖², for any number of targets.

    Attributes:
        weight: W of the last fit, of shape (outputs, inputs).
        intercept: c of the last fit, of shape (outputs,); zero without an intercept.
    """

    def __init__(
        self,
        inputs: Float[Tensor, "rows inputs"],
        prior: Float[Tensor, "outputs inputs"],
        shifts: bool,
    ) -> None:
        """Factorise the normal equations, which all targets share.

        Args:
            inputs: the layer's inputs; they may be overwritten.
            prior: weights to stay close to.
            shifts: whether there is an intercept.
        """
        # Sums over many rows in half precision would give a matrix that cannot be factorised.
        inputs, prior = at_least_single(inputs), at_least_single(prior)
        self._mean = inputs.mean(0) if shifts else None
        self._inputs = inputs if self._mean is None else inputs.sub_(self._mean)
        self._prior = self.weight = prior
        self.intercept = prior.new_zeros(len(prior))
        gram = (self._inputs.T @ self._inputs).double() / len(inputs)
        self._prior_moment = gram @ prior.T.double()
        gram.diagonal().add_(RIDGE * float(gram.diagonal().mean()) or 1.0)
        self._factor = torch.linalg.cholesky(gram)

    def fit(self, targets: Float[Tensor, "rows outputs"]) -> None:
        """Fit some targets."""
        targets = at_least_single(targets)
        middle = torch.zeros_like(self.intercept) if self._mean is None else targets.mean(0)
        moment = (self._inputs.T @ (targets - middle)).double() / len(targets)
        change = torch.cholesky_solve(moment - self._prior_moment, self._factor).T
        self.weight = self._prior + change.to(self._prior.dtype)
        self.intercept = middle
        if self._mean is not None:
            self.intercept = middle - self.weight @ self._mean

    def outputs(self) -> Float[Tensor, "rows outputs"]:
        """Return the outputs of the last fit."""
        shift = 0.0 if self._mean is None else self.weight @ self._mean
        return self._inputs @ self.weight.T + (self.intercept + shift)


def targets_behind_clamp(
    targets: Float[Tensor, "rows outputs"], affine: Affine, clamp: tuple[float, float]
) -> Callable[[Tensor], Tensor]:
    """Return a function mapping fitted outputs to the closest targets equal after clamping.

    Fitting its results repeatedly minimises a convex one-sided loss. Where a target lies within the
    bounds it is the squared error. Where a target lies beyond a bound, outputs beyond it cost
    nothing, and all others the squared distance to the bound.

    Args:
        targets: the targets.
        affine: scale and shift of the outputs between the layer and the clamp; where the scale is
            infinite or zero, the target stays.
        clamp: lower and upper bound.
    """
    scale, shift = affine
    invertible = scale.isfinite() & (scale != 0)
    ends = [(bound - shift) / torch.where(invertible, scale, 1.0) for bound in clamp]
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    sides = (
        (targets.le(low) & invertible, low, torch.minimum),
        (targets.ge(high) & invertible, high, torch.maximum),
    )
    clamped = [side for side in sides if side[0].any()]

    def closest(fitted: Float[Tensor, "rows outputs"]) -> Float[Tensor, "rows outputs"]:
        free = targets
        for where, end, nearest in clamped:
            free = torch.where(where, nearest(fitted, end), free)
        return free

    return closest

"""Optimal brain surgeon for single weights: the others of a row make up for those that go."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.sparsity.layout import Sparse
from autoprune.sparsity.patterns import Pattern
from autoprune.statistics.consumers import LayerMode
from autoprune.statistics.moments import MomentSum, is_laid_out, matrix_of
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.inputs import run

# Added to the diagonal of the second moments, as a share of its mean (SparseGPT's code).
DAMPING = 0.01
# Patches of each sample, and samples run at once.
POSITIONS, BATCH = 32, 100
# Weights go in rounds where a round needs at most so many multiplications, outputs * inputs^3 (some
# ten seconds), and so many bytes of matrices at once.
AFFORDABLE, BYTES = 2e11, 500_000_000
# Matrices of every row that are there at once.
MATRICES = 5


def with_zeros(
    matrix: Float[Tensor, "outputs inputs"],
    moments: Float64[Tensor, "inputs inputs"],
    pattern: Pattern,
    amount: float,
) -> Float64[Tensor, "outputs inputs"]:
    """Return a matrix with zeros, whose other entries make up for what that changes.

    Args:
        matrix: the weights.
        moments: E[x xᵀ] of the inputs.
        pattern: of the zeros.
        amount: share of the weights that goes.
    """
    moments, silent = moments.clone(), moments.diagonal() == 0
    mean = 1.0 if silent.all() else float(moments.diagonal()[~silent].mean())
    moments.diagonal()[silent] = mean
    moments.diagonal().add_(DAMPING * mean)
    weights = matrix.double().masked_fill(silent, 0.0)  # inputs that are always zero
    outputs, inputs = weights.shape
    find = in_rounds if outputs * inputs**3 <= AFFORDABLE else by_columns
    return find(weights, moments, pattern, amount)


def in_rounds(
    weights: Float64[Tensor, "outputs inputs"],
    moments: Float64[Tensor, "inputs inputs"],
    pattern: Pattern,
    amount: float,
) -> Float64[Tensor, "outputs inputs"]:
    """Remove a few weights at a time, and refit all others of a row after each round.

    Optimal brain surgeon (Hassibi and Stork 1993, equations 5) row by row, as OBC (Frantar and
    Alistarh 2022) does it one weight at a time: the loss without w_j is w_j² / [H⁻¹]_jj, H the
    moments of the inputs that the row still reads. Costs O(outputs inputs³) a round.

    Args:
        weights: of shape (outputs, inputs).
        moments: positive definite.
        pattern: of the zeros.
        amount: share of the weights that goes.
    """
    left, stays = weights, torch.ones_like(weights, dtype=torch.bool)
    diagonal = torch.cholesky_inverse(torch.linalg.cholesky(moments)).diagonal().expand_as(left)
    for step, share in pattern.steps(amount):
        losses = (left.square() / diagonal).masked_fill(~stays, -1.0)
        stays = stays & step.kept(losses, share)
        rows = max(1, BYTES // (MATRICES * 8 * len(moments) ** 2))
        parts = [
            _fitted(*pair, moments)
            for pair in zip(weights.split(rows), stays.split(rows), strict=True)
        ]
        left, diagonal = (torch.cat(own) for own in zip(*parts, strict=True))
    return left


def _fitted(
    weights: Float64[Tensor, "rows inputs"],
    stays: Bool[Tensor, "rows inputs"],
    moments: Float64[Tensor, "inputs inputs"],
) -> tuple[Float64[Tensor, "rows inputs"], Float64[Tensor, "rows inputs"]]:
    """Return the nearest rows that are zero elsewhere, and the diagonals of their inverses."""
    pairs = stays[:, :, None] & stays[:, None, :]
    factors = torch.linalg.cholesky(moments * pairs + torch.diag_embed((~stays).double()))
    wanted = (weights @ moments * stays)[:, :, None]
    fitted = torch.cholesky_solve(wanted, factors)[:, :, 0] * stays
    return fitted, torch.cholesky_inverse(factors).diagonal(dim1=1, dim2=2).clone()


def by_columns(
    weights: Float64[Tensor, "outputs inputs"],
    moments: Float64[Tensor, "inputs inputs"],
    pattern: Pattern,
    amount: float,
) -> Float64[Tensor, "outputs inputs"]:
    """Remove weights column by column, of which later ones make up for earlier ones.

    SparseGPT (Frantar and Alistarh 2023, Algorithm 1): those w_j go whose loss w_j² / [U]_jj² is
    least in a block of columns, U the upper Cholesky factor of the inverse of the moments, and all
    later columns change by −w_j U_j: / U_jj. Costs O(inputs² (inputs + outputs)).

    Args:
        weights: of shape (outputs, inputs).
        moments: positive definite.
        pattern: of the zeros.
        amount: share of the weights that goes.
    """
    left = weights.clone()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    factor = torch.linalg.cholesky(inverse, upper=True)
    width = pattern.columns * max(1, pattern.at_once // pattern.columns)
    for start in range(0, left.shape[1], width):
        end = min(start + width, left.shape[1])
        here, own = left[:, start:end], factor[start:end, start:end]
        stays = pattern.kept(here.square() / own.diagonal().square(), amount)
        errors = torch.zeros_like(here)
        for column in range(end - start):
            value = here[:, column]
            errors[:, column] = torch.where(stays[:, column], 0.0, value / own[column, column])
            here[:, column:] -= torch.outer(errors[:, column], own[column, column:])
        here[~stays] = 0.0
        left[:, end:] -= errors @ factor[start:end, end:]
    return left


class _Inputs(LayerMode):
    """Sums up the second moments of some layers' inputs."""

    def __init__(
        self, model: nn.Module, structure: Structure, weights: dict[str, Sparse], seed: int
    ) -> None:
        super().__init__(model, structure)
        self._generator = torch.Generator().manual_seed(seed)
        self.sums = {
            name: MomentSum(own.layer, matrix_of(own.layer, own.weight).shape[1], own.weight.device)
            for name, own in weights.items()
        }

    def visit(self, layer: LayerSpec, source: Tensor) -> Tensor:
        """Add a layer's input."""
        if layer.weight in self.sums and is_laid_out(layer, source):
            self.sums[layer.weight].add(source, POSITIONS, self._generator)
        return source


def input_moments(
    network: nn.Module,
    structure: Structure,
    weights: dict[str, Sparse],
    samples: Samples,
    seed: int,
) -> Iterator[tuple[str, Float64[Tensor, "inputs inputs"]]]:
    """Yield E[x xᵀ] of layers' inputs by the names of their weights, where it is known.

    Args:
        network: in evaluation mode.
        structure: of it.
        weights: of the layers, none of which is grouped or transposed.
        samples: that it runs on.
        seed: of the positions that are drawn.
    """
    inputs = _Inputs(network, structure, weights, seed)
    with torch.no_grad(), inputs:
        for batch in samples.batches_within(BATCH):
            run(network, batch.inputs)
    for name in weights:
        total = inputs.sums.pop(name)  # one after the other: they are large
        if total.count and (moments := total.moments()).is_full:
            yield name, moments.covariance + torch.outer(moments.mean, moments.mean)

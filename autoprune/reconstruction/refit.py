"""Least-squares refit of a consumer's weights after some of its inputs went.

With input covariance G, H = G + λI and kept columns S, the weights that reproduce the dense output
best are W' = W H[:,S] H[S,S]⁻¹ (He et al. 2017, eq. 2, in closed form; λ in both factors, so that a
full keep changes nothing). The mean of what is lost, W E[x] − W' E[x_S], goes into the bias or BN;
the variance that is lost, diag(W' G[S,S] W'ᵀ) beside diag(W G Wᵀ), into the BN. The latter spares
every candidate a pass over data: on ResNet-56 it judges as well as re-estimated BN statistics.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.precision import at_least_single
from autoprune.statistics.moments import Moments, matrix_of
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.surgery import Keep

# Least share of the mean input variance that is added to every input's.
RIDGE = 1e-3
# Of a covariance that says next to nothing so much is given up.
MOST_SHRUNK = 0.999
# Of solved weights that are remembered.
CACHE_BYTES = 500_000_000


@dataclass(frozen=True, eq=False)
class Refit:
    """Refitted weights of one consumer.

    Attributes:
        weight: (out, kept inputs, …kernel).
        mean: of the dense output, bias apart, (out,).
        shift: part of that mean that was lost, (out,).
        before, after: variance of the dense output and of the refitted one, (out,); of a
            transposed layer's rows, what they have about zero.
    """

    weight: Tensor
    mean: Tensor
    shift: Tensor
    before: Tensor
    after: Tensor

    @property
    def spread(self) -> Tensor:
        """Variance of the output as a share of the dense one's, (out,)."""
        known = self.before > 0
        return torch.where(known, self.after / torch.where(known, self.before, 1.0), 1.0)


def ridge_of(moments: Moments) -> float:
    """Return λ of full moments: the more, the fewer patches they come from.

    Of a patch of 4,096 inputs, one thousand patches tell little more than themselves: unless their
    covariance is shrunk, every input is foretold by the others, and no cut seems to lose anything.
    The share is the oracle approximating shrinkage (Chen et al. 2010, "Shrinkage Algorithms for
    MMSE Covariance Estimation", section III.C), `RIDGE` at least: keeping 1 − ρ of G beside ρ of
    its mean variance is adding ρ / (1 − ρ) of that.
    """
    covariance, count = moments.covariance, moments.count
    size, trace = len(covariance), float(covariance.diagonal().sum())
    square = float(covariance.square().sum())
    spread = (count + 1 - 2 / size) * (square - trace**2 / size)
    share = ((1 - 2 / size) * square + trace**2) / spread if spread > 0 else 1.0
    share = min(share, MOST_SHRUNK)
    return max(RIDGE, share / (1 - share)) * trace / size or 1.0


def regularized(moments: Moments) -> Tensor:
    """Return H = G + λI of full moments."""
    diagonal = moments.covariance.diagonal()
    return moments.covariance + torch.diag(torch.full_like(diagonal, ridge_of(moments)))


class LeastSquares:
    """The problem of one layer; what does not depend on the inputs that stay is computed once.

    Beside the moments it holds H Wᵀ, (d, out) in float64, where they are full.
    """

    def __init__(self, weight: Tensor, moments: Moments) -> None:
        """Take the dense weights, (out, in, …kernel), and the moments of the input patches.

        Only means are used where the moments are not full.
        """
        self._weight = weight.detach()
        self._moments = moments
        rows = self._weight.flatten(1).double()
        self._mean = rows @ moments.mean
        if moments.is_full:
            self._ridge = ridge_of(moments)
            products = moments.covariance @ rows.T
            self._variance = (rows.T * products).sum(0)
            self._target = products + self._ridge * rows.T
        else:
            self._variance = rows.square() @ moments.covariance

    def refit(self, kept_inputs: Tensor) -> Refit:
        """Return the weights of the layer that keeps some of its inputs.

        Args:
            kept_inputs: indices into dimension `in`.
        """
        small, left = (self._solve if self._moments.is_full else self._slice)(kept_inputs)
        shift = self._mean - small @ self._pick(self._moments.mean, 0, kept_inputs)
        shape = (len(small), len(kept_inputs), *self._weight.shape[2:])
        dtype = self._weight.dtype
        # Variances may overflow half precision.
        wide = torch.promote_types(dtype, torch.float32)
        rows = (value.to(wide) for value in (self._mean, shift, self._variance, left))
        return Refit(small.to(dtype).reshape(shape), *rows)

    def _solve(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Return W', (out, kept columns), and the variance of its output, (out,)."""
        block = self._pick(self._pick(self._moments.covariance, 0, kept), 1, kept)
        block.diagonal().add_(self._ridge)
        target = self._pick(self._target, 0, kept)
        small = torch.cholesky_solve(target, torch.linalg.cholesky(block))
        # W' H[S,S] is W H[:,S]: no further product with G is needed.
        left = (small * target).sum(0) - self._ridge * small.square().sum(0)
        return small.T, left.clamp_min(0.0)

    def _slice(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        small = self._weight.index_select(1, kept).flatten(1).double()
        return small, small.square() @ self._pick(self._moments.covariance, 0, kept)

    def _pick(self, columns: Tensor, dim: int, kept: Tensor) -> Tensor:
        """Return the columns of some inputs along a dimension; all taps at once are quickest."""
        by_input: Tensor = columns.unflatten(dim, (self._weight.shape[1], -1))
        return by_input.index_select(dim, kept).flatten(dim, dim + 1)


def _of_outputs(layer: LayerSpec, fit: Refit) -> Refit:
    """Return the refit of a transposed layer, fitted tap by tap.

    What an output gets on average is what its taps add, of which so many more there are than
    outputs as the stride says. The taps of one output are taken for independent of each other.
    """
    taps, strides = math.prod(layer.kernel_size), math.prod(layer.stride)
    before = fit.before - fit.mean.square()
    after = fit.after - (fit.mean - fit.shift).square()
    rows = (
        value.unflatten(0, (-1, taps)).sum(1) / strides
        for value in (fit.mean, fit.shift, before.clamp_min(0.0), after.clamp_min(0.0))
    )
    weight = fit.weight.T.reshape(fit.weight.shape[1], -1, *layer.kernel_size)
    return Refit(weight, *rows)


class Refitter:
    """Refits consumers of one dense network, remembering what was solved.

    The weights of a consumer depend on the units that its feeding groups keep, and on nothing else.
    """

    def __init__(
        self, model: nn.Module, structure: Structure, moments: Mapping[str, Moments]
    ) -> None:
        self._model = model
        self._structure = structure
        self._problems = {weight: self._problem(weight, own) for weight, own in moments.items()}
        self._solved: OrderedDict[tuple[str, tuple[int, ...]], Refit] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()  # candidates are built in several threads

    def _problem(self, weight: str, moments: Moments) -> LeastSquares:
        layer, value = self._structure.layer_of_weight[weight], self._model.get_parameter(weight)
        return LeastSquares(matrix_of(layer, value) if layer.is_transposed else value, moments)

    def tensors(self, keep: Keep) -> dict[str, Tensor]:
        """Return the tensors of the cut network that change, already sliced.

        Args:
            keep: the entries that stay.
        """
        changed: dict[str, Tensor] = {}
        for weight in self._problems:
            layer = self._structure.layer_of_weight[weight]
            if layer.in_dim in keep.get(weight, {}):
                fit = self._solve(weight, keep[weight][layer.in_dim])
                changed |= self._place(layer, fit, keep[weight].get(layer.out_dim))
        return changed

    def change(self, weight: str, kept_inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return by what a consumer's weight changes, and what its output gets in return.

        Inputs that go have weights of zero. Nothing is remembered.

        Returns:
            of the weight's shape; (out,).
        """
        layer = self._structure.layer_of_weight[weight]
        dense = self._model.get_parameter(weight).detach()
        if weight in self._problems:
            fit = self._fit(weight, kept_inputs)
            small, shift = fit.weight, fit.shift
        else:
            small = dense.index_select(layer.in_dim, kept_inputs)
            shift = at_least_single(dense.new_zeros(dense.shape[layer.out_dim]))
        return torch.zeros_like(dense).index_copy(layer.in_dim, kept_inputs, small) - dense, shift

    def _fit(self, weight: str, kept_inputs: Tensor) -> Refit:
        fit, layer = (
            self._problems[weight].refit(kept_inputs),
            self._structure.layer_of_weight[weight],
        )
        return _of_outputs(layer, fit) if layer.is_transposed else fit

    def _solve(self, weight: str, kept_inputs: Tensor) -> Refit:
        key = (weight, tuple(kept_inputs.tolist()))
        fit = self._solved.get(key)
        if fit is None:
            fit = self._fit(weight, kept_inputs)
        self._remember(key, fit)
        return fit

    def _remember(self, key: tuple[str, tuple[int, ...]], fit: Refit) -> None:
        with self._lock:
            if key not in self._solved:
                self._bytes += fit.weight.nbytes
            self._solved[key] = fit
            self._solved.move_to_end(key)
            while self._bytes > CACHE_BYTES and len(self._solved) > 1:
                self._bytes -= self._solved.popitem(last=False)[1].weight.nbytes

    def _place(self, layer: LayerSpec, fit: Refit, rows: Tensor | None) -> dict[str, Tensor]:
        """Name the refitted weights and the tensors that take up the shift and the spread."""
        placed = {layer.weight: fit.weight}
        lost = fit.shift
        if layer.bias is not None:
            placed[layer.bias] = self._model.get_parameter(layer.bias).detach() + fit.shift
            lost = torch.zeros_like(fit.shift)
        if layer.batchnorm is not None:
            placed |= self._statistics(layer, fit, lost)
        elif layer.bias is None:
            placed[f"{layer.name}.bias"] = fit.shift
        if rows is None:
            return placed
        dims = {layer.weight: layer.out_dim}
        return {name: v.index_select(dims.get(name, 0), rows) for name, v in placed.items()}

    def _statistics(self, layer: LayerSpec, fit: Refit, lost: Tensor) -> dict[str, Tensor]:
        """Return statistics with which the BN's output keeps its mean and variance."""
        bn: Any = self._model.get_submodule(f"{layer.batchnorm}")
        before = at_least_single(bn.running_var)
        variance = before * fit.spread
        stretch = ((variance + bn.eps) / (before + bn.eps)).sqrt()
        bias = 0.0 if layer.bias is None else self._model.get_parameter(layer.bias).detach()
        centre = fit.mean + bias
        return {
            f"{layer.batchnorm}.running_mean": centre - lost - (centre - bn.running_mean) * stretch,
            f"{layer.batchnorm}.running_var": variance,
        }

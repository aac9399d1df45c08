"""A consumer with known input covariances, whose inputs are eliminated in blocks.

With K = H⁻¹ = (G + λI)⁻¹ over a consumer's inputs, removing the columns B of one unit raises the
output error by tr(W_B K_BB⁻¹ W_Bᵀ). Remove the cheapest, update W −= W_B K_BB⁻¹ K_B: and
K −= K_:B K_BB⁻¹ K_B:, and repeat (Frantar et al. 2022, OBC, eq. 3 to 5, with one structure for all
rows as in Kurtic et al. 2023, ZipLM). Only the group's columns take part, so that a consumer of
several groups needs no more than its block of K.

This is the Cholesky factorisation of K with pivots chosen by score: with K_BB = LLᵀ, p = L⁻¹ K_B:
and q = W_B L⁻ᵀ, a removal takes pᵀp from K and qp from W. As in LAPACK's pivoted factorisation
(dpstrf), matrices are updated once for a block of pivots, by products of matrices; until then the
row K_B: of the next pivot is computed from those of the block. Scores need the diagonal blocks
of K and of C = WᵀW, which follow every removal: C changes by −(pᵀr + rᵀp) with r = L⁻¹ C_B: −
½ qᵀq p, for which the row C_B: has to be known, but not all of W.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from autoprune.reconstruction.elimination import Elimination, Problem

# Columns to remove before the matrices are updated: with fewer, products of matrices are slow;
# with more, so are the rows.
COLUMNS = 64


@dataclass(frozen=True, eq=False)
class ObsProblem(Problem):
    """A consumer with known input covariances.

    Attributes:
        weight: W over the group's columns, by unit; rows scaled by the BN that follows the layer.
        inverse: H⁻¹ over the same columns.
        ridge: λ in H.
        energy: tr(W G Wᵀ) of the whole consumer, by which its errors are divided.
    """

    weight: Float[Tensor, "outputs units entries"]
    inverse: Float64[Tensor, "units*entries units*entries"]
    ridge: float
    energy: float

    def start(self) -> Elimination:
        """Return the state with all units."""
        return _BlockedElimination(self)


class _BlockedElimination(Elimination):
    """The matrices over the columns of the units that are left, and the rows of a block of pivots.

    A unit's columns are at its place. Those of the pivots stay until the block is applied; then the
    last units move into the gaps.
    """

    def __init__(self, problem: ObsProblem) -> None:
        _, self._size, self._b = problem.weight.shape
        self._ridge = problem.ridge
        # A consumer with constant inputs loses nothing.
        self._energy = problem.energy if problem.energy > 0 else math.inf
        self._weight = problem.weight.double().flatten(1).clone()
        self._dense = self._weight.clone()
        self._inverse = problem.inverse.clone()
        # C is this matrix plus its transpose, so that one product updates it.
        self._half = self._weight.T @ (self._weight / 2)
        self._units = torch.arange(self._size)
        self._pivots: list[int] = []
        most = max(1, COLUMNS // self._b) * self._b
        self._p, self._r = self._inverse.new_empty(2, most, self._size * self._b)
        self._read_blocks()
        # Before the first and after every removal: tr(ΔHΔᵀ) and ‖Δ‖², where Δ is the change of W.
        self._lost = [self._inverse.new_zeros(1)]
        self._change = [self._inverse.new_zeros(1)]

    def scores(self) -> Float64[Tensor, " units"]:
        if self._b == 1:
            increases = (self._product_blocks / self._inverse_blocks).flatten()
        else:
            solved = torch.linalg.solve(self._inverse_blocks, self._product_blocks)
            increases = solved.diagonal(dim1=1, dim2=2).sum(1)
        scores = increases.new_zeros(self._size)
        scores[self._units] = increases / self._energy
        return scores

    def remove(self, unit: int) -> None:
        place = int((self._units == unit).nonzero())
        own, done = self._columns(place), len(self._pivots) * self._b
        earlier_p, earlier_r = self._p[:done], self._r[:done]
        own_p, own_r = earlier_p[:, own].T, earlier_r[:, own].T
        inverse_rows = self._inverse[own] - own_p @ earlier_p
        product_rows = (
            self._half[own] + self._half[:, own].T - own_p @ earlier_r - own_r @ earlier_p
        )
        root = torch.linalg.cholesky(inverse_rows[:, own])
        p = torch.linalg.solve_triangular(root, inverse_rows, upper=False)
        r = torch.linalg.solve_triangular(root, product_rows, upper=False)
        square = torch.linalg.solve_triangular(root, r[:, own].T, upper=False)  # qᵀq
        r -= square @ p / 2
        self._p[done : done + self._b], self._r[done : done + self._b] = p, r
        self._pivots.append(place)
        self._update_blocks(p, r)
        if done + self._b == len(self._p):
            self._apply()

    def errors(self) -> Float64[Tensor, " removed"]:
        self._apply()
        # tr(ΔHΔᵀ) includes the ridge term, which is not an error of the output.
        error = torch.cat(self._lost) - self._ridge * torch.cat(self._change)
        return error[1:].clamp_min(0.0) / self._energy

    def _columns(self, place: int) -> slice:
        return slice(place * self._b, (place + 1) * self._b)

    def _read_blocks(self) -> None:
        """Read the diagonal blocks of K and C off the matrices."""
        self._inverse_blocks = self._blocks_of(self._inverse)
        half = self._blocks_of(self._half)
        self._product_blocks = half + half.mT

    def _blocks_of(
        self, matrix: Float64[Tensor, "columns columns"]
    ) -> Float64[Tensor, "units entries entries"]:
        by_unit = (len(self._units), self._b)
        grid: Tensor = matrix.unflatten(1, by_unit).unflatten(0, by_unit)
        return grid.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()

    def _update_blocks(
        self, p: Float64[Tensor, "entries columns"], r: Float64[Tensor, "entries columns"]
    ) -> None:
        """Remove the newest pivot from the diagonal blocks; the pivots' own have no scores."""
        by_unit = (len(self._units), self._b)
        p, r = p.unflatten(1, by_unit).movedim(1, 0), r.unflatten(1, by_unit).movedim(1, 0)
        products = p.mT @ r
        self._inverse_blocks -= p.mT @ p
        self._product_blocks -= products + products.mT
        self._inverse_blocks[self._pivots] = torch.eye(self._b, dtype=p.dtype, device=p.device)
        self._product_blocks[self._pivots] = 0.0

    def _apply(self) -> None:
        """Update the matrices by the block of pivots, and let their units leave."""
        if not self._pivots:
            return
        done = len(self._pivots) * self._b
        p, r = self._p[:done], self._r[:done]
        own = self._of_places(torch.tensor(self._pivots))
        q = torch.linalg.solve_triangular(p[:, own], self._weight[:, own], upper=True, left=False)
        self._record(p, q)
        self._fill_gaps()
        end = len(self._units) * self._b
        self._p, self._r, self._dense = self._p[:, :end], self._r[:, :end], self._dense[:, :end]
        p, r = self._p[:done], self._r[:done]
        self._weight = self._weight[:, :end].addmm_(q, p, alpha=-1)
        self._inverse = self._inverse[:end, :end].addmm_(p.T, p, alpha=-1)
        self._half = self._half[:end, :end].addmm_(p.T, r, alpha=-1)
        self._pivots = []
        self._read_blocks()

    def _record(
        self, p: Float64[Tensor, "pivots columns"], q: Float64[Tensor, "outputs pivots"]
    ) -> None:
        """Record tr(ΔHΔᵀ) and ‖Δ‖² after every pivot of the block; Δ changes by −qp."""
        squares = q.T @ q
        lost = squares.diagonal().cumsum(0)
        crossed = (q * ((self._dense - self._weight) @ p.T)).sum(0)
        change = 2 * crossed.cumsum(0) + (squares * (p @ p.T)).cumsum(0).cumsum(1).diagonal()
        self._lost.append(self._lost[-1][-1] + lost[self._b - 1 :: self._b])
        self._change.append(self._change[-1][-1] + change[self._b - 1 :: self._b])

    def _fill_gaps(self) -> None:
        """Move the last units that are left into the places of the pivots."""
        left = torch.ones(len(self._units), dtype=torch.bool)
        left[self._pivots] = False
        end = int(left.sum())
        gaps, last = (~left[:end]).nonzero().flatten(), left[end:].nonzero().flatten() + end
        self._units[gaps] = self._units[last]
        self._units = self._units[:end]
        to, of = self._of_places(gaps), self._of_places(last)
        for matrix in (self._inverse, self._half):
            matrix[to] = matrix[of]
        for rows in (self._p, self._r, self._weight, self._dense, self._inverse, self._half):
            rows[:, to] = rows[:, of]

    def _of_places(self, places: Int[Tensor, " places"]) -> Int[Tensor, " columns"]:
        return (places[:, None] * self._b + torch.arange(self._b)).flatten()

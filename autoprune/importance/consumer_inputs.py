"""What the consumers of a group make of its units.

Every criterion on the output of the next layer (OBS, the lasso, ThiNet, AOFP) is a function of the
consumer's weights and the moments of its inputs. What is lost on average goes into a bias or BN,
so that inputs are taken about their means (a transposed consumer's about zero, `Moments`), and
outputs behind the BN: row i counts by γᵢ/σᵢ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoprune.core.policy import Slice
from autoprune.importance.base import Evidence
from autoprune.reconstruction.obs_path import (
    AdditiveProblem,
    ObsProblem,
    Problem,
    obs_path,
)
from autoprune.reconstruction.refit import regularized
from autoprune.statistics.moments import Moments, matrix_of
from autoprune.structure.groups import ChannelGroup, LayerSpec

TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Reading:
    """One consumer's view of a group.

    Attributes:
        rows: its weights as `matrix_of` them, float64, rows scaled by the BN that follows.
        columns: those of every unit, (units, inputs x taps).
        moments: of its inputs; None (or a diagonal alone) where only single inputs are known, which
            are then taken as independent.
    """

    rows: Tensor
    columns: Tensor
    moments: Moments | None

    def problem(self) -> Problem:
        """Return the consumer's least-squares problem."""
        if self.moments is None or not self.moments.is_full:
            return AdditiveProblem(self._independent_shares())
        h = regularized(self.moments)
        flat = self.columns.reshape(-1)
        return ObsProblem(
            weight=self.rows[:, flat].reshape(len(self.rows), *self.columns.shape),
            inverse=torch.cholesky_inverse(torch.linalg.cholesky(h))[flat][:, flat],
            ridge=float(h[0, 0] - self.moments.covariance[0, 0]),
            energy=float(((self.rows @ self.moments.covariance) * self.rows).sum()),
        )

    def products(self) -> tuple[Tensor, Tensor]:
        """Return E⟨zᵢ, zⱼ⟩, (units, units), and E⟨zᵢ, y⟩, (units,).

        zᵢ is what unit i contributes to the output y; both are shares of E⟨y, y⟩.
        """
        if self.moments is None or not self.moments.is_full:
            share = self._independent_shares()
            return share.diag(), share
        units, each = self.columns.shape
        flat = self.columns.reshape(-1)
        entries = (self.rows[:, flat].T @ self.rows) * self.moments.covariance[flat]
        energy = ((self.rows @ self.moments.covariance) * self.rows).sum().clamp_min(TINY)
        between = entries[:, flat].reshape(units, each, units, each).sum((1, 3))
        return between / energy, entries.sum(1).reshape(units, each).sum(1) / energy

    def weight_shares(self) -> Tensor:
        """Return each unit's share of the squared weights, (units,)."""
        energy = self.rows.square().sum(0)
        return energy[self.columns].sum(1) / energy.sum().clamp_min(TINY)

    def _independent_shares(self) -> Tensor:
        energy = self.rows.square().sum(0)
        energy = energy if self.moments is None else energy * self.moments.covariance
        return energy[self.columns].sum(1) / energy.sum().clamp_min(TINY)


@dataclass(frozen=True, eq=False)
class Contributions:
    """What a group's units contribute to the outputs of all its consumers, which count equally.

    Attributes:
        between: Σ E⟨zᵢ, zⱼ⟩ over consumers, (units, units), float64, on the CPU. With the units of
            a set T zeroed, the outputs' squared error is Σ over i, j in T of `between[i, j]`.
        target: Σ E⟨zᵢ, y⟩, (units,).
        weights: norm of each unit's weights, (units,).
    """

    between: Tensor
    target: Tensor
    weights: Tensor


def readings(group: ChannelGroup, evidence: Evidence) -> list[Reading]:
    """Return how every consumer sees a group."""
    found = []
    for consumer in group.consumers:
        layer = evidence.structure.layer_of_weight[consumer.tensor]
        rows = _output_rows(layer, evidence.model)
        taps = rows.shape[1] // evidence.structure.shapes[layer.weight][layer.in_dim]
        columns = _columns(consumer, taps).to(rows.device)
        found.append(Reading(rows, columns, evidence.moments.get(consumer.tensor)))
    return found


def contributions(group: ChannelGroup, evidence: Evidence) -> Contributions:
    """Return what a group's units contribute to its consumers' outputs."""
    between = torch.zeros(group.size, group.size, dtype=torch.float64)
    target, weights = torch.zeros_like(between[0]), torch.zeros_like(between[0])
    for reading in readings(group, evidence):
        both, own = reading.products()
        between += both.cpu()
        target += own.cpu()
        weights += reading.weight_shares().cpu()
    return Contributions(between, target, weights.sqrt())


def error_curve(group: ChannelGroup, evidence: Evidence, order: Sequence[int]) -> tuple[float, ...]:
    """Return the summed relative error of the refitted consumers at every width of an order."""
    return obs_path([reading.problem() for reading in readings(group, evidence)], order).errors


def _columns(consumer: Slice, taps: int) -> Tensor:
    """Return the columns of the rows of every unit, (units, inputs x taps)."""
    positions = torch.from_numpy(consumer.positions)
    return (positions[..., None] * taps + torch.arange(taps)).flatten(1)


def _output_rows(layer: LayerSpec, model: nn.Module) -> Tensor:
    """Return the weights as `matrix_of` them, float64, rows scaled by the BN that follows."""
    rows = matrix_of(layer, model.get_parameter(layer.weight).detach().double())
    if layer.batchnorm is None:
        return rows
    bn = model.get_submodule(layer.batchnorm)
    assert isinstance(bn, nn.modules.batchnorm._BatchNorm)
    assert bn.running_var is not None
    gain = (bn.running_var.double() + bn.eps).rsqrt()
    if bn.weight is not None:
        gain = gain * bn.weight.detach().double().abs()
    return rows * gain.repeat_interleave(len(rows) // len(gain))[:, None]

"""Contributions of a group's units to the outputs of its consumers.

Every criterion on the output of the next layer (OBS, the lasso, ThiNet, AOFP) is a function of the
consumer's weights and the moments of its inputs. Since a bias or BN absorbs the mean of what is
lost, inputs are centred (except those of a transposed consumer, see `Moments`). Outputs are
measured behind the BN: row i is scaled by γᵢ/σᵢ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor, nn

from autoprune.core.slices import Slice
from autoprune.importance.attention_scores import product_moments
from autoprune.importance.base import Evidence
from autoprune.reconstruction.elimination import AdditiveProblem, Problem
from autoprune.reconstruction.obs_path import obs_path
from autoprune.reconstruction.obs_problem import ObsProblem
from autoprune.reconstruction.refit import regularized
from autoprune.statistics.moments import Moments, matrix_of
from autoprune.structure.groups import ChannelGroup, LayerSpec

TINY = 1e-30


@dataclass(frozen=True, eq=False)
class ConsumerInputs:
    """The inputs of one consumer of a group: its weights and their moments.

    Attributes:
        rows: weight as `matrix_of` it, rows scaled by the BN that follows.
        columns: columns of `rows` that belong to every unit.
        moments: moments of the inputs. Where they are not full, or None, inputs are assumed
            independent.
    """

    rows: Float64[Tensor, "outputs inputs"]
    columns: Int[Tensor, "units entries"]
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

    def products(self) -> tuple[Float64[Tensor, "units units"], Float64[Tensor, " units"]]:
        """Return E⟨zᵢ, zⱼ⟩ and E⟨zᵢ, y⟩, divided by E⟨y, y⟩.

        zᵢ is the contribution of unit i to the output y.
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

    def weight_shares(self) -> Float64[Tensor, " units"]:
        """Return each unit's fraction of the squared weights."""
        energy = self.rows.square().sum(0)
        return energy[self.columns].sum(1) / energy.sum().clamp_min(TINY)

    def _independent_shares(self) -> Float64[Tensor, " units"]:
        """Return each unit's fraction of the output's variance if inputs are independent."""
        energy = self.rows.square().sum(0)
        energy = energy if self.moments is None else energy * self.moments.covariance
        return energy[self.columns].sum(1) / energy.sum().clamp_min(TINY)


@dataclass(frozen=True, eq=False)
class Contributions:
    """Contributions of a group's units to the outputs of all its consumers, weighted equally.

    All tensors are on the CPU.

    Attributes:
        between: Σ E⟨zᵢ, zⱼ⟩ over consumers. With the units of a set T zeroed, the squared error of
            the outputs is Σ over i, j in T of `between[i, j]`.
        target: Σ E⟨zᵢ, y⟩.
        weights: norm of each unit's weights.
    """

    between: Float64[Tensor, "units units"]
    target: Float64[Tensor, " units"]
    weights: Float64[Tensor, " units"]


def consumer_inputs(group: ChannelGroup, evidence: Evidence) -> list[ConsumerInputs]:
    """Return the inputs of every consumer of a group: of layers and of products of activations."""
    found = [
        ConsumerInputs(
            torch.ones_like(moments.mean)[None], _columns(s, 1).to(moments.mean.device), moments
        )
        for s, moments in product_moments(group, evidence)
    ]
    for consumer in group.consumers:
        layer = evidence.structure.layer_of_weight[consumer.tensor]
        rows = _output_rows(layer, evidence.model)
        taps = rows.shape[1] // evidence.structure.shapes[layer.weight][layer.in_dim]
        columns = _columns(consumer, taps).to(rows.device)
        found.append(ConsumerInputs(rows, columns, evidence.moments.get(consumer.tensor)))
    return found


def contributions(group: ChannelGroup, evidence: Evidence) -> Contributions:
    """Return the contributions of a group's units to its consumers' outputs."""
    between = torch.zeros(group.size, group.size, dtype=torch.float64)
    target, weights = torch.zeros_like(between[0]), torch.zeros_like(between[0])
    for inputs in consumer_inputs(group, evidence):
        products, with_output = inputs.products()
        between += products.cpu()
        target += with_output.cpu()
        weights += inputs.weight_shares().cpu()
    return Contributions(between, target, weights.sqrt())


def error_curve(group: ChannelGroup, evidence: Evidence, order: Sequence[int]) -> tuple[float, ...]:
    """Return the summed relative error of the refitted consumers, by the number of units left.

    Args:
        group: the group.
        evidence: the dense network and its statistics.
        order: units, the last one to remove first.
    """
    problems = (inputs.problem() for inputs in consumer_inputs(group, evidence))
    return obs_path(problems, order).errors


def _columns(consumer: Slice, taps: int) -> Int[Tensor, "units entries"]:
    """Return the columns of the weight matrix that belong to every unit."""
    positions = torch.from_numpy(consumer.positions)
    return (positions[..., None] * taps + torch.arange(taps)).flatten(1)


def _output_rows(layer: LayerSpec, model: nn.Module) -> Float64[Tensor, "outputs inputs"]:
    """Return a weight as `matrix_of` it, rows scaled by the BN that follows."""
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

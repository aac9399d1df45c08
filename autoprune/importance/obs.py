"""Structured optimal brain surgeon as a criterion: least error of the refitted consumers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.importance.base import Evidence, Importance, Ranking
from autoprune.policy import Slice
from autoprune.reconstruction.obs_path import AdditiveProblem, ObsProblem, Problem, obs_path
from autoprune.reconstruction.refit import regularized
from autoprune.statistics.moments import Moments
from autoprune.structure.groups import ChannelGroup, LayerSpec


class ObsImportance(Importance):
    """Order and error curve of one elimination per group (`reconstruction.obs_path`).

    Errors are measured behind the BN that follows a consumer: row i counts by γᵢ/σᵢ. Consumers
    without full moments (too many inputs, or no plain layer) take their inputs as independent.
    """

    name: ClassVar[str] = "obs"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return the elimination order and the summed relative error of all consumers."""
        path = obs_path(list(_problems(group, evidence)))
        return Ranking(path.order, path.errors)


def _problems(group: ChannelGroup, evidence: Evidence) -> Iterator[Problem]:
    for consumer in group.consumers:
        layer = evidence.structure.layer_of_weight[consumer.tensor]
        moments = evidence.moments.get(consumer.tensor)
        rows = _output_rows(layer, evidence.model)
        taps = rows.shape[1] // evidence.structure.shapes[layer.weight][layer.in_dim]
        columns = _columns(consumer, taps).to(rows.device)
        if moments is None or not moments.is_full:
            yield _independent(rows, columns, moments)
        else:
            yield _correlated(rows, columns, moments)


def _independent(rows: Tensor, columns: Tensor, moments: Moments | None) -> AdditiveProblem:
    energy = rows.square().sum(0)
    energy = energy if moments is None else energy * moments.covariance
    return AdditiveProblem(energy[columns].sum(1) / energy.sum().clamp_min(1e-30))


def _correlated(rows: Tensor, columns: Tensor, moments: Moments) -> ObsProblem:
    h = regularized(moments)
    flat = columns.reshape(-1)
    return ObsProblem(
        weight=rows[:, flat].reshape(len(rows), *columns.shape),
        inverse=torch.cholesky_inverse(torch.linalg.cholesky(h))[flat][:, flat],
        ridge=float(h[0, 0] - moments.covariance[0, 0]),
        energy=float(((rows @ moments.covariance) * rows).sum()),
    )


def _columns(consumer: Slice, taps: int) -> Tensor:
    """Return the columns of `weight.reshape(out, -1)` of every unit, (units, inputs x taps)."""
    positions = torch.from_numpy(consumer.positions)
    return (positions[..., None] * taps + torch.arange(taps)).flatten(1)


def _output_rows(layer: LayerSpec, model: nn.Module) -> Tensor:
    """Return the weights as (out, in x taps), float64, rows scaled by the BN that follows."""
    weight = model.get_parameter(layer.weight).detach().double()
    rows = weight.movedim(layer.out_dim, 0).flatten(1)
    if layer.batchnorm is None:
        return rows
    bn = model.get_submodule(layer.batchnorm)
    assert isinstance(bn, nn.modules.batchnorm._BatchNorm)
    assert bn.running_var is not None
    gain = (bn.running_var.double() + bn.eps).rsqrt()
    if bn.weight is not None:
        gain = gain * bn.weight.detach().double().abs()
    return rows * gain[:, None]

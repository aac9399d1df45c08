"""Centripetal SGD: filters of a cluster grow equal, and one of them stands for all."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from autoprune.agents.config import Amount
from autoprune.core.slices import Slice
from autoprune.methods.base import Scores, TrainingMethod
from autoprune.methods.units import all_norms, entries, favoured, largest
from autoprune.structure.groups import ChannelGroup
from autoprune.training.hooks import Moment

# Share of ε by which vectors (biases and BN) are pulled.
VECTORS = 0.1


@dataclass(frozen=True)
class CentripetalSgdConfig:
    """How strongly filters are drawn together.

    Attributes:
        strength: ε, of the pull to the mean of a cluster.
    """

    strength: Amount = 3e-3


class CentripetalSgd(TrainingMethod):
    """Centripetal SGD for pruning very deep convolutional networks (Ding et al. 2019).

    The filters of every group are clustered by k-means into as many clusters as the budget leaves
    units at equal shares. Equation 4: a filter F of the cluster H takes the mean of the gradients
    in H, and the pull ε (mean_H(F) − F), so that the filters of a cluster become equal while they
    train. Whatever else belongs to a unit (bias, BN, depthwise filter) is treated alike, so that
    its channels become equal, too. One channel of each cluster is then kept, and takes what the
    next layers' weights have for the others: no loss where they are equal.

    ε = 3e-3 is the authors' on CIFAR-10, over 600 epochs with a learning rate of .03; short runs
    need more (.05 for ResNet-50). As theirs, the pull of biases and BN is a tenth of that. It is
    meant for SGD. Costs a pass over the weights in a step, and one k-means. Groups that operators
    without weights combine, or of which any weight is frozen, are only ranked by norm.
    """

    name: ClassVar[str] = "c_sgd"
    config = CentripetalSgdConfig()

    def start(self, network: nn.Module) -> None:
        """Cluster the filters of every group."""
        self._clusters: list[Int64[Tensor, " _units"]] = [
            clusters(_filters(group, network), width, self.goal.seed)
            if _may_merge(group, network)
            else torch.arange(group.size)
            for group, width in zip(self.goal.structure.groups, self.widths, strict=True)
        ]

    def after_backward(self, network: nn.Module, now: Moment) -> None:
        """Replace gradients by their means in a cluster, and add the pull."""
        for group, own in zip(self.goal.structure.groups, self._clusters, strict=True):
            for part, tensor in _made(group, network):
                if tensor.grad is not None:
                    pulled = tensor - cluster_means(tensor, part, own)
                    mean = cluster_means(tensor.grad, part, own)
                    share = VECTORS if tensor.dim() == 1 else 1.0
                    tensor.grad.copy_(mean + share * self.config.strength * pulled)

    def merge(self, network: nn.Module) -> nn.Module:
        """Let one unit of each cluster stand for all: it takes what is read of the others."""
        with torch.no_grad():
            for group, own in zip(self.goal.structure.groups, self._clusters, strict=True):
                chosen = representatives(own)
                for part in group.consumers:
                    _gather(network.get_parameter(part.tensor), part, own, chosen)
        return network

    def scores(self, network: nn.Module) -> Scores:
        """Return norms of filters; those that another one stands for rank below all others."""
        norms = all_norms(self.goal.structure, network)
        stays = []
        for own, values, width in zip(self._clusters, norms, self.widths, strict=True):
            chosen = representatives(own)
            units = torch.zeros(len(own), dtype=torch.bool).index_fill(0, chosen, True)
            stays.append(units if len(chosen) <= width else largest(values, width))
        return favoured(stays, norms)

    def state(self) -> dict[str, Any]:
        """Return the clusters."""
        return {"clusters": self._clusters}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        self._clusters = list(state["clusters"])


def clusters(
    filters: Float[Tensor, "units entries"], count: int, seed: int = 0
) -> Int64[Tensor, " units"]:
    """Return the cluster of every unit by k-means; of equal units there may be fewer."""
    from sklearn.cluster import KMeans

    if count >= len(filters):
        return torch.arange(len(filters))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about filters that are equal already
        found = KMeans(count, n_init=4, random_state=seed).fit_predict(filters.double().numpy())
    return torch.from_numpy(np.asarray(found, dtype=np.int64))


def representatives(own: Int64[Tensor, " units"]) -> Int64[Tensor, " _clusters"]:
    """Return the first unit of every cluster, in the order of the clusters that there are."""
    return torch.stack([(own == one).nonzero()[0, 0] for one in own.unique()])


def cluster_means(tensor: Tensor, part: Slice, own: Int64[Tensor, " units"]) -> Tensor:
    """Return a tensor in which a slice's entries of every unit are the means of its cluster."""
    positions = torch.from_numpy(part.positions).to(tensor.device)
    lines = tensor.movedim(part.dim, 0)
    units = lines[positions]  # (units, entries, …)
    # Counted where the labels are: a count of the device's would wait for all that it has to do.
    count, label = int(own.max()) + 1, own.to(tensor.device)
    sums = torch.zeros(count, *units.shape[1:], dtype=units.dtype, device=units.device)
    sizes = torch.bincount(own, minlength=count).clamp_min(1).to(units)
    means = sums.index_add(0, label, units) / sizes.view(-1, *[1] * (units.dim() - 1))
    result = lines.clone()
    result[positions.reshape(-1)] = means[label].flatten(0, 1)
    return result.movedim(0, part.dim)


def _gather(
    weight: Tensor, part: Slice, own: Int64[Tensor, " units"], chosen: Int64[Tensor, " _clusters"]
) -> None:
    """Add what a weight has for the units of a cluster to the chosen one, and clear the others."""
    positions = torch.from_numpy(part.positions).to(weight.device)
    lines = weight.movedim(part.dim, 0)  # a view
    units = lines[positions]
    gathered = torch.zeros_like(units)
    place = torch.empty(len(own), dtype=torch.int64)
    for unit in chosen.tolist():
        place[own == own[unit]] = unit
    gathered.index_add_(0, place.to(weight.device), units)
    lines[positions.reshape(-1)] = gathered.flatten(0, 1)


def _filters(group: ChannelGroup, network: nn.Module) -> Float[Tensor, "{group.size} _entries"]:
    """Return all filters that make each unit."""
    parts = [
        entries(network.get_parameter(part.tensor).detach(), part).cpu()
        for part in group.slices
        if part.role == "producer"
    ]
    return torch.cat(parts, 1)


def _may_merge(group: ChannelGroup, network: nn.Module) -> bool:
    """Say whether the units of a cluster can become equal, and one of them stand for all."""
    named = dict(network.named_parameters())
    own = [named[part.tensor] for part in group.slices if part.tensor in named]
    return not group.mixed and all(one.requires_grad for one in own)


def _made(group: ChannelGroup, network: nn.Module) -> Iterator[tuple[Slice, nn.Parameter]]:
    """Yield everything of a unit that training changes but what reads it."""
    named = dict(network.named_parameters())
    for part in group.slices:
        parameter = named.get(part.tensor)
        if part.role != "consumer" and parameter is not None and parameter.requires_grad:
            yield part, parameter

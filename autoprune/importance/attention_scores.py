"""What the channels of queries and keys contribute to the scores of attention.

A score sums the products of a query's and a key's channels, so that it is a linear layer of the
products, with weights of one. Queries and keys are linear in inputs whose moments are known; with
queries and keys of different tokens independent, E⟨qᵢkᵢ, qⱼkⱼ⟩ = E⟨qᵢ, qⱼ⟩ E⟨kᵢ, kⱼ⟩. Keys are
centred: the softmax over them ignores what they have in common. A factor that no layer makes (a
table of positions, learnt queries) is taken to have independent channels of equal size.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from autoprune.core.slices import Slice
from autoprune.importance.base import Evidence
from autoprune.statistics.moments import Moments
from autoprune.structure.groups import ChannelGroup, LayerSpec
from autoprune.structure.mixers import Mixer


def product_moments(group: ChannelGroup, evidence: Evidence) -> list[tuple[Slice, Moments]]:
    """Return every product that sums over a group's channels, with the moments of its terms.

    The terms are those of one score, the mean over heads; every head counts equally.

    Args:
        group: the group.
        evidence: the dense network and its statistics.

    Returns:
        The columns of each of the group's units in the product, and the moments.
    """
    mixers = {one.name: one for one in evidence.structure.mixers if one.reads}
    found = []
    for s in group.mixed:
        mixer = mixers.get(s.tensor)
        if mixer is not None and s.dim == 1:
            found.append((s, _moments(mixer, evidence)))
    return found


def _moments(mixer: Mixer, evidence: Evidence) -> Moments:
    match [_second_moments(one, evidence) for one in mixer.factors]:
        case [(spread, mean), (of_keys, _)]:
            terms = (spread + mean[:, :, None] * mean[:, None]) * of_keys
        case [(spread, _)]:
            terms = spread.diagonal(dim1=1, dim2=2).diag_embed()
        case _:
            terms = torch.eye(mixer.shape[1], dtype=torch.float64)[None]
    each = terms.sum((1, 2), keepdim=True)  # the variance of a head's scores
    products = (terms / each.clamp_min(1e-30)).mean(0)
    counts = (
        evidence.moments[f.tensor].count for f in mixer.factors if f.tensor in evidence.moments
    )
    return Moments(min(counts, default=1), torch.zeros_like(products[0]), products)


def _second_moments(
    factor: Slice, evidence: Evidence
) -> tuple[Float64[Tensor, "heads width width"], Float64[Tensor, "heads width"]]:
    """Return the covariance and mean of a layer's outputs in every head.

    Where nothing is known of the layer's inputs, they are taken to be independent.
    """
    layer = evidence.structure.layer_of_weight[factor.tensor]
    rows = _rows(layer, factor, evidence)
    moments = evidence.moments.get(layer.weight)
    positions = torch.from_numpy(factor.positions).to(rows.device)
    mean = rows.new_zeros(positions.shape)
    spread = rows
    if moments is not None:
        mean = rows @ moments.mean
        spread = rows @ moments.covariance if moments.is_full else rows * moments.covariance
    if layer.bias is not None:
        bias = evidence.model.get_parameter(layer.bias).detach().double()
        mean = mean + bias[positions]
    return spread @ rows.mT, mean


def _rows(
    layer: LayerSpec, factor: Slice, evidence: Evidence
) -> Float64[Tensor, "heads width inputs"]:
    weight = evidence.model.get_parameter(layer.weight).detach().double()
    positions = torch.from_numpy(factor.positions).to(weight.device)
    return weight.movedim(layer.out_dim, 0).flatten(1)[positions]

"""What decides which single weights become zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.errors import UsageError, did_you_mean
from autoprune.reconstruction.batchnorm import reestimate_batchnorm
from autoprune.sparsity.choices import MAGNITUDE, OBS, SNIP
from autoprune.sparsity.layout import Sparse, sparse_weights
from autoprune.sparsity.obs import input_moments, with_zeros
from autoprune.sparsity.patterns import Blocks, Pattern
from autoprune.statistics.gradients import class_loss
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import class_scores, run
from autoprune.structure.output_distance import output_distance
from autoprune.structure.surgery import deep_copy
from autoprune.structure.tracing.operators import plain_arithmetic

# Labelled samples that SNIP's gradient is of, and how many of them run at once.
SNIP_SAMPLES, SNIP_BATCH = 500, 100
# One of so many samples judges which statistics of BNs are better.
UNSEEN = 4


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is to become of a network's weights.

    Attributes:
        structure: of the network.
        pattern: of the zeros.
        amount: share of the weights that becomes zero; a pattern N:M says that itself.
        samples: that a criterion may look at; None if there are none.
        seed: of what is drawn at random.
    """

    structure: Structure
    pattern: Pattern
    amount: float
    samples: Samples | None = None
    seed: int = 0

    def weights(self, network: nn.Module) -> dict[str, Sparse]:
        """Return the weights of a network that get zeros, by their names."""
        found = sparse_weights(network, self.structure, self.pattern)
        return {own.layer.weight: own for own in found}


Criterion: TypeAlias = Callable[[nn.Module, Wanted], None]
"""Gives the weights of a network in evaluation mode their zeros, in place."""


def by_magnitude(network: nn.Module, wanted: Wanted) -> None:
    """The smallest weights go, as many of each layer as of any other (Zhu and Gupta 2017)."""
    for own in wanted.weights(network).values():
        _keep(own, wanted.pattern.kept(own.matrix.abs(), wanted.amount))


def by_snip(network: nn.Module, wanted: Wanted) -> None:
    """Those of least connection sensitivity go, wherever they are (SNIP, Lee et al. 2019, eq. 6).

    s_j = |w_j ∂L/∂w_j| relative to the sum of all, L the cross-entropy of labelled samples. The
    paper scores networks before they are trained; here it is the given one.

    Raises:
        UsageError: there are no labels.
    """
    samples = wanted.samples
    if samples is None or not samples.labelled:
        raise UsageError("the criterion 'snip' needs labelled samples: choose magnitude or obs.")
    weights, own_copy = wanted.weights(network), deep_copy(network)
    copies = {name: own_copy.get_parameter(name) for name in weights}
    totals = {name: torch.zeros_like(one) for name, one in copies.items()}
    with torch.enable_grad(), plain_arithmetic():
        for batch in samples.first(SNIP_SAMPLES).batches(SNIP_BATCH):
            loss = class_loss(class_scores(run(own_copy, batch.inputs)), batch)
            slopes = torch.autograd.grad(loss, list(copies.values()), allow_unused=True)
            for name, slope in zip(copies, slopes, strict=True):
                if slope is not None:
                    totals[name] += slope
    scores = {
        name: own.arranged((totals[name] * own.weight.detach()).abs())
        for name, own in weights.items()
    }
    amounts = _amounts(scores, wanted)
    for name, own in weights.items():
        _keep(own, wanted.pattern.kept(scores[name], amounts[name]))


def by_surgeon(network: nn.Module, wanted: Wanted) -> None:
    """Those go whose loss the others of their row make up for best (OBS, `obs.py`).

    As many of each layer as of any other. Inputs are the dense network's. Layers with groups and
    transposed ones, and those whose covariance would be too large, lose their smallest weights.
    """
    assert wanted.samples is not None
    weights = wanted.weights(network)
    plain = {n: w for n, w in weights.items() if w.layer.groups == 1 and not w.layer.is_transposed}
    found = input_moments(network, wanted.structure, plain, wanted.samples, wanted.seed)
    for name, own in weights.items():
        moments = found.get(name)
        if moments is None or not moments.is_full:
            _keep(own, wanted.pattern.kept(own.matrix.abs(), wanted.amount))
            continue
        second = moments.covariance + torch.outer(moments.mean, moments.mean)
        order = own.columns.to(second.device)
        cut = with_zeros(own.matrix, second[order][:, order], wanted.pattern, wanted.amount)
        own.weight.data.copy_(own.restored(cut))


_BY_NAME: Mapping[str, Criterion] = {OBS: by_surgeon, MAGNITUDE: by_magnitude, SNIP: by_snip}


def find_criterion(name: str) -> Criterion:
    """Return what is called that.

    Raises:
        UsageError: there is none.
    """
    if name not in _BY_NAME:
        raise UsageError(f"unknown criterion {name!r}; {did_you_mean(name, _BY_NAME)}")
    return _BY_NAME[name]


def take_better_statistics(network: nn.Module, dense: nn.Module, samples: Samples | None) -> None:
    """Give BNs the statistics that they see behind zeros, if outputs are nearer to dense then.

    Many zeros change what a BN reads by much; after few, the statistics of all training images are
    better than those of some. Statistics are of three quarters of the samples, judged by the rest.

    Args:
        network: with zeros, in evaluation mode; changed in place.
        dense: the network without them.
        samples: of the training split; None for no change.
    """
    if samples is None or (unseen := len(samples) // UNSEEN) < 1:
        return
    judged, seen = samples.first(unseen), samples[unseen:]
    settled = deep_copy(network)
    reestimate_batchnorm(settled, seen)
    with torch.no_grad():
        answers = run(dense, judged.inputs)
        before, after = (
            float(output_distance(run(one, judged.inputs), answers)) for one in (network, settled)
        )
    if after < before:
        network.load_state_dict(settled.state_dict())


def _keep(own: Sparse, stays: Bool[Tensor, "outputs inputs"]) -> None:
    own.weight.data.mul_(own.restored(stays))


def _amounts(
    scores: Mapping[str, Float[Tensor, "outputs inputs"]], wanted: Wanted
) -> dict[str, float]:
    """Return the share of each layer's weights that goes if the least of all layers go."""
    pattern = wanted.pattern
    if not isinstance(pattern, Blocks) or not scores:
        return dict.fromkeys(scores, wanted.amount)
    totals = {name: pattern.totals(own).flatten() for name, own in scores.items()}
    every = torch.cat(list(totals.values()))
    gone = torch.zeros(len(every), dtype=torch.bool, device=every.device)
    gone[every.argsort(stable=True)[: round(wanted.amount * len(every))]] = True
    parts = gone.split([len(own) for own in totals.values()])
    return {name: float(part.double().mean()) for name, part in zip(totals, parts, strict=True)}

"""What decides which single weights become zero."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.data.samples import NO_LABEL
from autoprune.errors import ModelError, UsageError, did_you_mean, listed
from autoprune.reconstruction.batchnorm import reestimate_batchnorm
from autoprune.sparsity.choices import MAGNITUDE, OBS, SNIP
from autoprune.sparsity.layout import Sparse, sparse_weights
from autoprune.sparsity.obs import BATCH, input_moments, with_zeros
from autoprune.sparsity.patterns import Blocks, Pattern
from autoprune.statistics.consumers import batch_within
from autoprune.statistics.gradients import ACTIVATION_BYTES, class_loss
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import class_scores, run
from autoprune.structure.output_distance import output_distance
from autoprune.structure.surgery import deep_copy
from autoprune.structure.tracing.operators import plain_arithmetic

log = logging.getLogger(__name__)

# Labelled samples that SNIP's gradient is of, and how many of them run at once at most.
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
    if samples is None or samples.targets is None or not samples.labelled:
        raise UsageError("the criterion 'snip' needs labelled samples: choose magnitude or obs.")
    labelled = samples[(samples.targets != NO_LABEL).nonzero()[:SNIP_SAMPLES, 0].tolist()]
    size = batch_within(wanted.structure, SNIP_BATCH, ACTIVATION_BYTES)
    weights, own_copy = wanted.weights(network), deep_copy(network)
    copies = {name: own_copy.get_parameter(name) for name in weights}
    totals = {name: torch.zeros_like(one) for name, one in copies.items()}
    with torch.enable_grad(), plain_arithmetic():
        for batch in labelled.batches(size):
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

    As many of each layer as of any other. Inputs are the dense network's. Layers of which these are
    not known as patches (with groups, transposed, with one-sided padding), or too many for a
    covariance, lose their smallest weights.
    """
    assert wanted.samples is not None
    left = wanted.weights(network)
    known = {n: w for n, w in left.items() if w.layer.refittable and not w.layer.is_transposed}
    moments = input_moments(network, wanted.structure, known, wanted.samples, wanted.seed)
    for name, second in moments:
        own = left.pop(name)
        order = own.columns.to(second.device)
        cut = with_zeros(own.matrix, second[order][:, order], wanted.pattern, wanted.amount)
        own.weight.data.copy_(own.restored(cut))
    for own in left.values():
        _keep(own, wanted.pattern.kept(own.matrix.abs(), wanted.amount))
    if left:
        names = listed([own.layer.name for own in left.values()])
        log.info("the smallest weights go, and nothing makes up for them, in: %s", names)


_BY_NAME: Mapping[str, Criterion] = {OBS: by_surgeon, MAGNITUDE: by_magnitude, SNIP: by_snip}


def find_criterion(name: str) -> Criterion:
    """Return what is called that.

    Raises:
        UsageError: there is none.
    """
    if name not in _BY_NAME:
        raise UsageError(f"unknown criterion {name!r}; {did_you_mean(name, _BY_NAME)}")
    return _BY_NAME[name]


def take_better_statistics(network: nn.Module, dense: nn.Module, wanted: Wanted) -> None:
    """Give BNs the statistics that they see behind zeros, if outputs are nearer to dense then.

    Many zeros change what a BN reads by much; after few, the statistics of all training images are
    better than those of some. Statistics are of three quarters of the samples, judged by the rest.

    Args:
        network: with zeros, in evaluation mode; changed in place.
        dense: the network without them.
        wanted: with the samples; without any nothing changes.
    """
    samples = wanted.samples
    if samples is None or (unseen := len(samples) // UNSEEN) < 1:
        return
    judged, seen = samples.first(unseen), samples[unseen:]
    settled = deep_copy(network)
    reestimate_batchnorm(settled, seen, wanted.structure.untouched)
    try:
        before, after = (_distance(one, dense, judged) for one in (network, settled))
    except ModelError:  # outputs that cannot be compared, such as a detector's boxes
        return
    if after < before:
        network.load_state_dict(settled.state_dict())


def _distance(network: nn.Module, dense: nn.Module, samples: Samples) -> float:
    total = 0.0
    with torch.no_grad():
        for batch in samples.batches_within(BATCH):
            outputs, answers = (run(one, batch.inputs) for one in (network, dense))
            total += len(batch) * float(output_distance(outputs, answers))
    return total / len(samples)


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

"""Scores and costs of one evaluated candidate."""

from __future__ import annotations

from typing import Any

from autoprune.core.policy import Widths
from autoprune.core.records import Name, Natural, Quantity, Real, Record, Table
from autoprune.errors import AutopruneError, user_code


class Scores(Record, frozen=True):
    """Scores of a network on some samples; None if a score does not apply.

    Attributes:
        kl: mean KL divergence from the dense network's class probabilities, nats.
        loss: mean cross entropy on the labels, nats.
        top1: share of the labelled samples whose label is the top class, in [0, 1].
        custom: score from the user's `evaluate`; higher is better.
        soft_kl: `kl` of class probabilities softened by a temperature (Hinton et al. 2015,
            "Distilling the Knowledge in a Neural Network", section 2), times its square.
        agreement: share of the samples whose top class is the dense network's, in [0, 1]; known of
            final scores alone.
        samples: number of samples.
    """

    kl: Real | None = None
    loss: Real | None = None
    top1: Real | None = None
    custom: Real | None = None
    soft_kl: Real | None = None
    agreement: Real | None = None
    samples: Natural = 0

    @property
    def metric(self) -> float | None:
        """The score shown to users: `custom` if there is one, else top-1."""
        return self.top1 if self.custom is None else self.custom


class Measurement(Record, frozen=True):
    """Scores and costs of the network cut to some widths.

    Attributes:
        widths: units kept per group.
        names: names of the groups, in the same order.
        scores: scores of the cut network.
        dense: scores of the dense network on the same samples.
        costs: costs of the cut network, by cost name.
        dense_costs: costs of the dense network.
        seconds: time of this evaluation, by stage.
        others_scored: number of other networks scored: an incumbent without cached scores.
    """

    widths: Widths
    names: tuple[Name, ...]
    scores: Scores
    dense: Scores
    costs: Table[Quantity]
    dense_costs: Table[Quantity]
    seconds: Table[Quantity]
    others_scored: Natural = 0


def number_in(answer: Any) -> float | None:
    """Convert the result of a user's function to a number; None if it is not one.

    Tensors and arrays of one element are numbers, strings are not.
    """
    from torch import Tensor  # only here, so that mistakes are refused without importing it

    if isinstance(answer, (str, bytes)):
        return None
    try:
        with user_code(AutopruneError):
            # PyTorch warns when a tensor that requires gradients is converted.
            return float(answer.detach() if isinstance(answer, Tensor) else answer)
    except AutopruneError:
        return None

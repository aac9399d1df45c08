"""What one evaluation of a candidate found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autoprune.core.policy import Widths
from autoprune.core.untrusted import (
    count,
    each,
    extent,
    fields,
    label,
    or_none,
    quantity,
    real,
    table,
)
from autoprune.errors import AutopruneError, user_code


@dataclass(frozen=True)
class Scores:
    """How well a network does on some samples; None where something does not apply.

    Attributes:
        kl: mean KL divergence from the dense network's class probabilities, nats.
        loss: mean cross entropy on the labels, nats.
        top1: share of the samples with a label whose label is the first choice, in [0, 1].
        custom: what the user's `evaluate` returned; higher is better.
        soft_kl: `kl` of class probabilities softened by a temperature (Hinton et al. 2015,
            "Distilling the Knowledge in a Neural Network", section 2), times its square.
        samples: how many there were.
    """

    kl: float | None = None
    loss: float | None = None
    top1: float | None = None
    custom: float | None = None
    soft_kl: float | None = None
    samples: int = 0

    @classmethod
    def from_json(cls, data: Any) -> Scores:
        """Inverse of `vars`; a score of a network that overflows need not be finite.

        Raises:
            ValueError: they are none.
        """
        scores = dict.fromkeys(("kl", "loss", "top1", "custom", "soft_kl"), or_none(real))
        return cls(**fields(data, {}, {**scores, "samples": count}))

    @property
    def metric(self) -> float | None:
        """The figure that users read: `custom` where there is one, else top-1."""
        return self.top1 if self.custom is None else self.custom


@dataclass(frozen=True)
class Measurement:
    """Scores and costs of the network cut to some widths.

    Attributes:
        widths: units kept per group.
        names: the groups' names, in the same order.
        scores: of the cut network on the search split.
        dense: of the dense network on the same samples.
        costs: of the cut network, by cost name.
        dense_costs: of the dense network.
        seconds: spent on this evaluation, by stage.
        others_scored: networks scored besides: a rival whose scores were not at hand.
    """

    widths: Widths
    names: tuple[str, ...]
    scores: Scores
    dense: Scores
    costs: Mapping[str, float]
    dense_costs: Mapping[str, float]
    seconds: Mapping[str, float]
    others_scored: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {**asdict(self), "widths": list(self.widths), "names": list(self.names)}

    @classmethod
    def from_json(cls, data: Any) -> Measurement:
        """Inverse of `to_json`.

        Raises:
            ValueError: it is none.
        """
        return cls(
            **fields(
                data,
                {
                    "widths": each(extent),
                    "names": each(label),
                    **dict.fromkeys(("scores", "dense"), Scores.from_json),
                    **dict.fromkeys(("costs", "dense_costs"), table(quantity)),
                    "seconds": table(quantity),
                },
                {"others_scored": count},
            )
        )


def number_in(answer: Any) -> float | None:
    """Return what a function of the user's returned as a number; None if it is none.

    Tensors and arrays of one element are numbers, texts are not.
    """
    from torch import Tensor  # only here, so that mistakes are refused without importing it

    if isinstance(answer, (str, bytes)):
        return None
    try:
        with user_code(AutopruneError):
            # PyTorch warns of a number that gradients could have been taken of.
            return float(answer.detach() if isinstance(answer, Tensor) else answer)
    except AutopruneError:
        return None

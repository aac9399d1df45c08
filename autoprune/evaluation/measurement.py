"""Scores and costs of one evaluated candidate."""

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
    """Scores of a network on some samples; None if a score does not apply.

    Attributes:
        kl: mean KL divergence from the dense network's class probabilities, nats.
        loss: mean cross entropy on the labels, nats.
        top1: share of the labelled samples whose label is the top class, in [0, 1].
        custom: score from the user's `evaluate`; higher is better.
        soft_kl: `kl` of class probabilities softened by a temperature (Hinton et al. 2015,
            "Distilling the Knowledge in a Neural Network", section 2), times its square.
        samples: number of samples.
    """

    kl: float | None = None
    loss: float | None = None
    top1: float | None = None
    custom: float | None = None
    soft_kl: float | None = None
    samples: int = 0

    @classmethod
    def from_json(cls, data: Any) -> Scores:
        """Read scores written with `vars`; they need not be finite (a network may overflow).

        Raises:
            ValueError: the data are not scores.
        """
        scores = dict.fromkeys(("kl", "loss", "top1", "custom", "soft_kl"), or_none(real))
        return cls(**fields(data, {}, {**scores, "samples": count}))

    @property
    def metric(self) -> float | None:
        """The score shown to users: `custom` if there is one, else top-1."""
        return self.top1 if self.custom is None else self.custom


@dataclass(frozen=True)
class Measurement:
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
    names: tuple[str, ...]
    scores: Scores
    dense: Scores
    costs: Mapping[str, float]
    dense_costs: Mapping[str, float]
    seconds: Mapping[str, float]
    others_scored: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return JSON data."""
        return {**asdict(self), "widths": list(self.widths), "names": list(self.names)}

    @classmethod
    def from_json(cls, data: Any) -> Measurement:
        """Read JSON data written by `to_json`.

        Raises:
            ValueError: the data are not a measurement.
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

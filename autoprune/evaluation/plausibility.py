"""Plausibility of the dense network's outputs: signs of mistakes in weights, data or labels."""

from __future__ import annotations

import math

from torch import Tensor

from autoprune.data import NO_LABEL

# With fewer samples nothing can be concluded.
FEW = 10
# Standard errors by which accuracy must exceed chance.
ABOVE_CHANCE = 2.0


def doubt(logits: Tensor, labels: Tensor | None) -> str | None:
    """Return a warning if a network's class scores are implausible, else None.

    Args:
        logits: class scores, (samples, classes).
        labels: class labels, (samples,), `NO_LABEL` for a sample without one; None without labels.
    """
    if _is_constant(logits):
        return (
            f"the dense network gives the same class probabilities for all {len(logits)} images, "
            "so that nothing tells good candidates from bad ones: check its weights and how images "
            "are normalised"
        )
    chosen = logits.argmax(1)
    if labels is None or not (known := labels != NO_LABEL).any():
        return _single_choice(chosen)
    labels, chosen = labels[known], chosen[known]
    return _single_label(labels) or _single_choice(chosen) or _by_chance(chosen, labels)


def _is_constant(logits: Tensor) -> bool:
    """Say whether class probabilities are equal for all samples, up to rounding."""
    logits = logits.double()
    rounding = 1e-6 * (1 + float(logits.abs().max()))
    log_p = logits.log_softmax(1)
    return len(logits) >= FEW and bool(((log_p - log_p[0]).abs() <= rounding).all())


def _single_label(labels: Tensor) -> str | None:
    if not _is_single(labels):
        return None
    return (
        f"all {len(labels)} images have the label {int(labels[0])}: accuracy on a single class "
        "says little; check that the data is mixed and complete"
    )


def _single_choice(chosen: Tensor) -> str | None:
    if not _is_single(chosen):
        return None
    return (
        f"the dense network gives class {int(chosen[0])} for all {len(chosen)} images: check its "
        "weights and how images are normalised"
    )


def _by_chance(chosen: Tensor, labels: Tensor) -> str | None:
    """Compare accuracy with that of independent predictions of the same class frequencies."""
    if len(labels) < FEW:
        return None
    right = float((chosen == labels).double().mean())
    size = int(max(chosen.max(), labels.max())) + 1
    shares = [one.bincount(minlength=size).double() / len(labels) for one in (chosen, labels)]
    chance = float(shares[0] @ shares[1])
    if right > chance + ABOVE_CHANCE * math.sqrt(chance * (1 - chance) / len(labels)):
        return None
    return (
        f"the dense network is right on {right:.1%} of {len(labels)} images, no more than by "
        "chance: check its weights, how images are normalised, and that labels are in the order of "
        "its outputs"
    )


def _is_single(values: Tensor) -> bool:
    return len(values) >= FEW and bool((values == values[0]).all())

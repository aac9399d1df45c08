"""Comparisons of written files: with PyTorch on real inputs, and of int8 with float."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.data import Split, with_class_labels
from autoprune.data.forms import Inputs, tensors, with_floats
from autoprune.errors import ModelError, first_line
from autoprune.evaluation.classification import compare
from autoprune.profiling.backends.program import Predict
from autoprune.structure.inputs import class_scores, outputs_of, run

# The largest difference from PyTorch's outputs, as a share of the largest of these, that rounding
# explains: runtimes add up in another order, and some transform 3 x 3 convolutions (Winograd).
TOLERANCE = 1e-3
# Samples at a time of a comparison of int8 with float.
BATCH = 32


@dataclass(frozen=True)
class Deviation:
    """How far a file's outputs are from PyTorch's.

    Attributes:
        absolute: the largest difference.
        relative: the same as a share of the largest of PyTorch's outputs.
    """

    absolute: float
    relative: float


def deviation(predict: Predict, model: nn.Module, batches: Iterable[Inputs]) -> Deviation:
    """Compare a file with the network that it was written from.

    Args:
        predict: runs the file.
        model: the network, in float32 and evaluation mode on the CPU.
        batches: batches of the sizes that the file is to take.

    Raises:
        ModelError: the runtime fails, or gives outputs that are not finite or of another shape.
    """
    largest = worst = 0.0
    for batch in batches:
        with torch.no_grad():
            expected = list(outputs_of(run(model, batch)).values())
        for own, wanted in zip(_outputs(predict, batch, expected), expected, strict=True):
            difference = (own.double() - wanted.double()).abs().max().item()
            worst, largest = max(worst, difference), max(largest, wanted.abs().max().item())
    return Deviation(worst, worst / largest if largest else worst)


def _outputs(predict: Predict, batch: Inputs, expected: Sequence[Tensor]) -> list[Tensor]:
    """Return a file's outputs, of the expected number and shapes and finite where these are."""
    try:
        found = predict([one.contiguous() for one in tensors(batch)])
    except Exception as error:  # runtimes raise many kinds
        raise ModelError(f"the runtime cannot run the file: {first_line(error)}") from error
    seen, wanted = ([tuple(one.shape) for one in some] for some in (found, expected))
    if seen != wanted:
        raise ModelError(f"the file's outputs have the shapes {seen}, but PyTorch's {wanted}.")
    for own, other in zip(found, expected, strict=True):
        if bool((own.isfinite() != other.isfinite()).any()):
            raise ModelError("the file's outputs are not finite where PyTorch's are.")
    return found


def check_equal(found: Deviation) -> None:
    """Refuse a file that does not compute what PyTorch does.

    Raises:
        ModelError: it differs by more than `TOLERANCE`.
    """
    if not found.relative <= TOLERANCE:
        raise ModelError(
            f"the file's outputs differ from PyTorch's by up to {found.absolute:.3g}, "
            f"{100 * found.relative:.3g} % of the largest ({100 * TOLERANCE:g} % is tolerated)."
        )


def compare_classes(
    network: nn.Module, predicts: Sequence[Predict], split: Split
) -> dict[str, Any] | None:
    """Compare the class scores of an int8 file with those of the float file.

    Args:
        network: the network in PyTorch, which tells which output has the class scores.
        predicts: functions that run the float file and the int8 file, both of any batch size.
        split: the samples.

    Returns:
        "samples", the share of them on which both have the same top class ("agreement"), the KL
        divergence of int8 from float in nats ("kl"), and with labels the top-1 of both
        ("float_top1", "top1"); None if the network gives no class scores.
    """
    place = _place_of_scores(network, split.take([0]).inputs)
    if place is None:
        return None
    scores: tuple[list[Tensor], list[Tensor]] = ([], [])
    labels: list[Tensor] = []
    for batch in split.batches(BATCH):
        samples = with_class_labels(batch)
        given = tensors(with_floats(samples.inputs, torch.float32))
        for own, predict in zip(scores, predicts, strict=True):
            own.append(predict(given)[place])
        labels.extend([samples.targets] if samples.labelled and samples.targets is not None else [])
    truth = torch.cat(labels) if len(labels) == len(scores[0]) else None
    reference, quantized = map(torch.cat, scores)
    before, after = (compare(reference, one, truth) for one in (reference, quantized))
    return {
        "samples": len(reference),
        "float_top1": before.top1,
        "top1": after.top1,
        "agreement": (reference.argmax(1) == quantized.argmax(1)).double().mean().item(),
        "kl": after.kl,
    }


def _place_of_scores(network: nn.Module, inputs: Inputs) -> int | None:
    """Return which of a network's output tensors has the class scores, if one has them."""
    with torch.no_grad():
        output = run(network, with_floats(inputs, torch.float32))
    scores = class_scores(output)
    if not isinstance(scores, Tensor) or scores.dim() != 2 or scores.shape[1] < 2:
        return None
    found = enumerate(outputs_of(output).values())
    return next((place for place, one in found if one is scores), None)

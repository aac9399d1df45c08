"""Scoring of networks of any task by how near their outputs are to the dense network's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.data import MAX_BYTES, Samples, Split
from autoprune.errors import DataError, EvaluateError, ModelError, UsageError, spelt, user_code
from autoprune.evaluation.classification import score_split
from autoprune.evaluation.measurement import Scores
from autoprune.evaluation.parallel_forward import GPU_BATCH, in_turn
from autoprune.evaluation.scoring import Scorer
from autoprune.structure.inputs import class_scores, device_of, outputs_of, run, run_pruned
from autoprune.structure.output_distance import Distance, output_distance, users_distance

# The dense network's outputs are kept up to this size; larger ones are computed every time.
KEPT_BYTES = 1_000_000_000


class OutputScorer(Scorer):
    """Scores networks by minus the distance of their outputs from the dense network's.

    Attributes:
        dense: the distance from itself, usually 0.
    """

    def __init__(
        self, dense: nn.Module, samples: Samples, distance: Distance | None = None
    ) -> None:
        """Run the dense network.

        Args:
            dense: the network that others are compared with.
            samples: samples on which they are compared.
            distance: the user's own; by default `output_distance`.

        Raises:
            ModelError: the outputs are not finite, or nothing in them can be compared.
            DataError: the network cannot take the samples.
            EvaluateError: the user's distance raises, or returns no scalar.
        """
        if distance is None:
            _check_comparable(dense, samples)
        self._network, self._samples, self._distance = dense, samples, distance
        self._kept: list[Any] | None = None
        answers = list(self._within_memory())
        if sum(1 for _ in in_turn(samples)) == len(answers):
            self._kept = answers
        self.dense = self.score(dense)
        if not math.isfinite(self.dense.custom or 0.0):
            raise UsageError(
                "distance(outputs, dense) must return a finite number for equal outputs, but it "
                f"returned {self.dense.custom}."
            )

    def score(self, model: nn.Module) -> Scores:
        """Return the score, as the custom one: larger is better.

        Raises:
            EvaluateError: the outputs cannot be compared.
            ModelError: the network raises.
        """
        total, answers = 0.0, self._answers()
        with torch.no_grad():
            for batch, dense in zip(in_turn(self._samples), answers, strict=True):
                total += len(batch) * self._between(run_pruned(model, batch.inputs), dense)
        return Scores(custom=0.0 - total / len(self._samples), samples=len(self._samples))

    def _between(self, outputs: Any, dense: Any) -> float:
        if self._distance is not None:
            return float(users_distance(self._distance, outputs, dense))
        try:
            return float(output_distance(outputs, dense))
        except ModelError as error:
            raise EvaluateError(str(error)) from error

    def _answers(self) -> Iterator[Any]:
        """Yield the dense network's outputs on every batch."""
        if self._kept is not None:
            yield from self._kept
            return
        for batch in in_turn(self._samples):
            with torch.no_grad():
                yield run(self._network, batch.inputs)

    def _within_memory(self) -> Iterator[Any]:
        """Yield the same until they take too much memory."""
        spent = 0
        for outputs in self._answers():
            spent += sum(one.nbytes for one in outputs_of(outputs).values())
            if spent > KEPT_BYTES:
                return
            yield outputs


def gives_class_scores(model: nn.Module, samples: Samples) -> bool:
    """Say whether a network returns class scores: (samples, classes), two classes or more.

    Raises:
        DataError: it cannot take the samples.
    """
    scores = class_scores(_run_first(model, samples, 2))
    return isinstance(scores, Tensor) and scores.dim() == 2 and scores.shape[1] > 1


def score_on_split(
    dense: nn.Module,
    others: Sequence[nn.Module],
    split: Split,
    distance: Distance | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> list[Scores]:
    """Score the dense network and others on a whole split: by class scores if it gives them.

    Args:
        dense: the network that others are compared with.
        others: the networks to compare.
        split: the split on which they are compared.
        distance: the user's own distance of outputs, which takes the place of class scores.
        note: receives a warning if the dense network's outputs are implausible.

    Returns:
        The scores of the dense network, then of the others.

    Raises:
        AutopruneError: the split does not fit the network, or outputs cannot be compared.
    """
    if distance is None and gives_class_scores(dense, split.take([0]).to(device_of(dense))):
        return score_split(dense, others, split, note)
    parts: list[list[Scores]] = [[] for _ in range(1 + len(others))]
    for batch in split.batches(_equal_batches(split)):
        scorer = OutputScorer(dense, batch.to(device_of(dense)), distance)
        for own, network in zip(parts, (dense, *others), strict=True):
            own.append(scorer.score(network))
    return [_mean(own) for own in parts]


def _equal_batches(split: Split) -> int:
    """Return a batch size that leaves no small rest, whose variance would mean nothing."""
    most = max(1, min(GPU_BATCH, MAX_BYTES // split.take([0]).sample_bytes))
    return -(-len(split) // -(-len(split) // most))


def _mean(parts: Sequence[Scores]) -> Scores:
    samples = sum(part.samples for part in parts)
    total = sum(part.samples * (part.custom or 0.0) for part in parts)
    return Scores(custom=total / samples, samples=samples)


def _check_comparable(dense: nn.Module, samples: Samples) -> None:
    """Refuse outputs of which nothing says which belongs to which.

    Raises:
        ModelError: there are more of them for more samples (boxes, say), or none are finite.
    """
    one, two = (outputs_of(_run_first(dense, samples, count)) for count in (1, 2))
    how = (
        f"give a score with {spelt('evaluate', 'file.py:function')}, or say how outputs are "
        f"compared with {spelt('distance', 'file.py:function')}."
    )
    if len(samples) > 1 and one.keys() != two.keys():
        raise ModelError(
            "the network returns as many tensors as there are samples or objects, so that its "
            f"outputs cannot be compared one by one: {how}"
        )
    floating = [value for value in two.values() if value.is_floating_point()]
    if not floating:
        raise ModelError(f"the network returns no floating numbers that could be compared: {how}")
    if not all(bool(value.isfinite().all()) for value in floating):
        raise ModelError("the dense model's outputs are not finite on the search images.")


def _run_first(model: nn.Module, samples: Samples, count: int) -> Any:
    """Run a network on the first samples.

    Raises:
        DataError: it cannot take them.
    """

    def failed(reason: str) -> DataError:
        return DataError(f"the model cannot take samples of shape {samples.shape}: {reason}")

    with torch.no_grad(), user_code(failed):
        return run(model, samples.first(count).inputs)

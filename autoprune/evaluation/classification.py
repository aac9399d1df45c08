"""Scoring of classifiers by their class scores, in comparison with the dense network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from contextlib import closing

import torch
from msgspec import structs
from torch import Tensor, nn

from autoprune.core.threads import OwnLock
from autoprune.data import (
    MAX_BYTES,
    Samples,
    Split,
    check_classes,
    check_labels,
    check_samples,
    with_class_labels,
)
from autoprune.errors import DataError, ModelError, counted, spelt, user_code
from autoprune.evaluation.early_stopping import Incumbent, score_until_worse
from autoprune.evaluation.measurement import Scores
from autoprune.evaluation.parallel_forward import GPU_BATCH, ParallelForward, in_turn
from autoprune.evaluation.plausibility import doubt
from autoprune.evaluation.replay.prefix_cache import PrefixCache
from autoprune.evaluation.sample_scores import SampleScores
from autoprune.evaluation.scoring import Scorer
from autoprune.reconstruction.batchnorm import fold_batchnorm
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import class_scores, device_of, run

# Number of networks whose scores by sample are cached, as possible incumbents.
CACHED_NETWORKS = 16


class ClassificationScorer(Scorer):
    """Scores classifiers: KL to the dense network, and with labels also loss and top-1.

    Attributes:
        doubt: why the dense network's outputs are implausible; None if they are not.
        prefix: cache of the operators that candidates share with a base network.
    """

    def __init__(
        self,
        dense: nn.Module,
        samples: Samples,
        unlabelled: Samples | None = None,
        classes: int | None = None,
    ) -> None:
        """Run the dense network.

        Args:
            dense: the network that others are compared with.
            samples: samples on which networks are compared.
            unlabelled: more samples, which are used for the KL only.
            classes: number of classes in the labels; None if not known.

        Raises:
            ModelError: the dense network's output is not a finite (samples, classes) tensor.
            DataError: it cannot take the samples, a label is outside its outputs, or their number
                is not that of the classes.
        """
        logits = class_logits(dense, samples)
        check_classes(classes, logits.shape[1])
        check_labels(samples, logits.shape[1])
        self.doubt = doubt(logits, samples.targets)
        if unlabelled is not None:
            samples = samples.with_unlabelled(unlabelled)
            logits = torch.cat([logits, class_logits(dense, unlabelled)])
        self._samples, self._dense_logits = samples, logits
        self.dense = self._compare(self._dense_logits)
        self._forward = ParallelForward(samples)
        self._forward.check(dense, self._dense_logits)
        self.prefix = PrefixCache([batch.inputs for batch in in_turn(samples)])
        self._by_key: OrderedDict[Hashable, SampleScores] = OrderedDict()
        self._lock = OwnLock()  # candidates may be scored in several threads

    def prepare(self, model: nn.Module, structure: Structure) -> nn.Module:
        """Return a copy with BN folded into the layers, which is faster."""
        return fold_batchnorm(model, structure)

    def score(self, model: nn.Module) -> Scores:
        """Return KL, loss and top-1."""
        return self._compare(torch.cat(list(self._forward.outputs(model))))

    def score_as(self, model: nn.Module, key: Hashable) -> Scores:
        """Return the same scores; they are cached by sample."""
        own = SampleScores.join(list(self._by_sample(model)))
        self.remember(key, own)
        return own.mean()

    def by_sample(self, key: Hashable) -> SampleScores | None:
        """Return the cached scores of a network; None if there are none."""
        with self._lock:
            return self._by_key.get(key)

    def remember(self, key: Hashable, scores: SampleScores) -> None:
        """Cache the scores of a network."""
        with self._lock:
            self._cache(key, scores)

    def score_against(self, model: nn.Module, key: Hashable, incumbent: Incumbent) -> Scores:
        """Return the same scores, estimated from the first samples if the KL is surely worse."""
        reference = self._incumbent_scores(*incumbent)
        with closing(self._by_sample(model)) as batches:
            own = score_until_worse(batches, reference)
        if len(own) < len(reference):
            return own.with_control(reference)
        self.remember(key, own)
        return own.mean()

    def _incumbent_scores(self, key: Hashable, build: Callable[[], nn.Module]) -> SampleScores:
        """Return an incumbent's scores; other threads that need them wait for the first."""
        with self._lock:
            scores = self._by_key.get(key)
            if scores is None:
                scores = SampleScores.join(list(self._by_sample(build())))
            self._cache(key, scores)
        return scores

    def _by_sample(self, model: nn.Module) -> Generator[SampleScores, None, None]:
        """Yield a network's scores by sample, batch by batch."""
        start = 0
        with closing(self._forward.outputs(model)) as outputs:
            for logits, batch in zip(outputs, self._forward.batches(), strict=True):
                dense = self._dense_logits[start : start + len(batch)]
                start += len(batch)
                yield SampleScores.of(dense, logits, batch.targets)

    def _cache(self, key: Hashable, scores: SampleScores) -> None:
        self._by_key[key] = scores
        self._by_key.move_to_end(key)
        if len(self._by_key) > CACHED_NETWORKS:
            self._by_key.popitem(last=False)

    def score_near(self, model: nn.Module, base: Callable[[], nn.Module]) -> Scores:
        """Return the same scores, reusing what the base computes before the first change."""
        logits = self.prefix.outputs(model, base())
        return self.score(model) if logits is None else self._compare(torch.cat(logits))

    def _compare(self, logits: Tensor) -> Scores:
        return compare(self._dense_logits, logits, self._samples.targets)


def compare(dense: Tensor, logits: Tensor, targets: Tensor | None) -> Scores:
    """Score class scores (samples, classes) against those of the dense network and the labels."""
    return SampleScores.of(dense, logits, targets).mean()


def score_split(
    dense: nn.Module,
    others: Sequence[nn.Module],
    split: Split,
    note: Callable[[str], None] = lambda text: None,
) -> list[Scores]:
    """Score the dense network and others on a whole split, batch by batch.

    Args:
        dense: the network that others are compared with.
        others: the networks to compare.
        split: the split on which they are compared.
        note: receives a warning if the dense network's outputs are implausible.

    Returns:
        The scores of the dense network, then of the others.

    Raises:
        DataError: the split's labels or inputs do not fit the network.
    """
    device = device_of(dense)
    logits: list[list[Tensor]] = [[] for _ in range(1 + len(others))]
    targets: list[Tensor] = []
    for batch in split.batches(_batch_size(split)):
        samples = with_class_labels(batch.to(device))
        check_samples(samples, "test")
        logits[0].append(class_logits(dense, samples))
        check_classes(split.classes, logits[0][-1].shape[1])
        check_labels(samples, logits[0][-1].shape[1])
        for own, model in zip(logits[1:], others, strict=True):
            own.append(torch.cat(list(_logits(model, samples))))
        targets.extend([] if samples.targets is None else [samples.targets])
    truth = torch.cat(targets) if targets else None
    reference = torch.cat(logits[0])
    if text := doubt(reference, truth):
        note(text)
    return [_with_agreement(reference, torch.cat(own), truth) for own in logits]


def _with_agreement(dense: Tensor, logits: Tensor, targets: Tensor | None) -> Scores:
    agreement = float((dense.argmax(1) == logits.argmax(1)).double().mean())
    return structs.replace(compare(dense, logits, targets), agreement=agreement)


def _batch_size(split: Split) -> int:
    """Return the number of samples of a split to read at once; fewer if they are large."""
    return max(1, min(GPU_BATCH, MAX_BYTES // split.take([0]).sample_bytes))


def class_logits(model: nn.Module, samples: Samples) -> Tensor:
    """Compute the dense network's class scores, (samples, classes), and check them.

    Raises:
        ModelError: the output is not a finite (samples, classes) tensor.
        DataError: the network cannot take the samples.
    """
    with user_code(
        lambda reason: DataError(
            f"the model cannot take samples of shape {samples.shape}: {reason}"
        )
    ):
        logits = list(_logits(model, samples))
    if not all(isinstance(batch, Tensor) and batch.dim() == 2 for batch in logits):
        first = logits[0]
        seen = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
        raise ModelError(
            f"the model's output must be (samples, classes), but it is {seen}; for another task "
            f"than classification give a score with {spelt('evaluate', 'file.py:function')}."
        )
    if logits[0].shape[1] == 1:
        raise ModelError(
            "the model gives one number per sample, which has no KL: its only class would have "
            "the probability 1 whatever the network does; give a score with "
            f"{spelt('evaluate', 'file.py:function')}, e.g. minus the mean squared error."
        )
    result = torch.cat(logits)
    if len(result) != len(samples):
        raise ModelError(
            f"the model's output must be (samples, classes), but it has {len(result)} rows for "
            f"{counted(len(samples), 'sample')}."
        )
    if not bool(result.isfinite().all()):
        raise ModelError("the dense model's outputs are not finite on the search images.")
    return result


def _logits(model: nn.Module, samples: Samples) -> Iterable[Tensor]:
    with torch.no_grad():
        for batch in in_turn(samples):
            yield class_scores(run(model, batch.inputs))

"""Scores of a network on fixed samples."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from contextlib import closing
from threading import Lock

import torch
from torch import Tensor, nn

from autoprune.core.plugins import load_object
from autoprune.data import (
    MAX_BYTES,
    Samples,
    Split,
    check_classes,
    check_labels,
    check_samples,
    with_class_labels,
)
from autoprune.errors import (
    DataError,
    EvaluateError,
    ModelError,
    UsageError,
    type_of,
    user_code,
)
from autoprune.evaluation.doubts import doubt
from autoprune.evaluation.measurement import Scores, number_in
from autoprune.evaluation.racing import Rival, SampleScores, race
from autoprune.evaluation.replay.prefix import PrefixCache
from autoprune.evaluation.streams import GPU_BATCH, Streams, in_turn
from autoprune.reconstruction.batchnorm import fold_batchnorm
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import class_scores, device_of, run
from autoprune.structure.surgery import deep_copy

# Networks whose scores by sample are remembered, for others to race against.
RACERS = 16


class Scorer(ABC):
    """Scores networks beside one dense network."""

    dense: Scores

    def prepare(self, model: nn.Module, structure: Structure) -> nn.Module:
        """Return what is scored of a network: here itself.

        Args:
            model: the network; it is not changed.
            structure: of the dense network.
        """
        return model

    @abstractmethod
    def score(self, model: nn.Module) -> Scores:
        """Return the scores of a network in evaluation mode."""

    def score_near(self, model: nn.Module, base: Callable[[], nn.Module]) -> Scores:
        """Return the same of a network that may begin like another one; here that saves nothing.

        Args:
            model: as for `score`.
            base: gives that other network, the same object for as long as it is the same network.
        """
        return self.score(model)

    def score_against(self, model: nn.Module, name: Hashable, rival: Rival) -> Scores:
        """Return scores that may stop early if the model is surely worse; here they do not.

        Args:
            model: as for `score`.
            name: by which it can be a rival later.
            rival: another network.
        """
        return self.score(model)


class ClassificationScorer(Scorer):
    """KL to the dense network; loss and top-1 where there are labels.

    Attributes:
        doubt: what is odd about its answers, in words; None where nothing is.
        prefix: what candidates that begin like a base have in common.
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
            samples: what they are compared on.
            unlabelled: further samples, which count for KL alone.
            classes: how many classes the labels number; None where that is not known.

        Raises:
            ModelError: its output is no (samples, classes) tensor, not finite, or the same for all
                samples.
            DataError: it cannot take the samples, a label is outside its outputs, or these are not
                as many as the classes.
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
        self._streams = Streams(samples)
        self._streams.check(dense, self._dense_logits)
        self.prefix = PrefixCache([batch.inputs for batch in in_turn(samples)])
        self._racers: OrderedDict[Hashable, SampleScores] = OrderedDict()
        self._lock = Lock()  # candidates are scored in several threads

    def prepare(self, model: nn.Module, structure: Structure) -> nn.Module:
        """Return a copy without BN, which computes the same in less time."""
        return fold_batchnorm(model, structure)

    def score(self, model: nn.Module) -> Scores:
        """Return KL, loss and top-1."""
        return self._compare(torch.cat(list(self._streams.outputs(model))))

    def score_against(self, model: nn.Module, name: Hashable, rival: Rival) -> Scores:
        """Return the same scores, estimated on some of the samples where KL is surely worse."""
        theirs = self._of_rival(*rival)
        with closing(self._by_sample(model)) as batches:
            own = race(batches, theirs)
        if len(own) < len(theirs):
            return own.beside(theirs)
        self._remember(name, own)
        return own.mean()

    def _of_rival(self, name: Hashable, network: Callable[[], nn.Module]) -> SampleScores:
        """Return a rival's scores; who else wants them meanwhile waits."""
        with self._lock:
            theirs = self._racers.get(name)
            if theirs is None:
                theirs = SampleScores.join(list(self._by_sample(network())))
            self._keep(name, theirs)
        return theirs

    def _by_sample(self, model: nn.Module) -> Generator[SampleScores, None, None]:
        """Yield the scores of every batch of the samples."""
        start = 0
        with closing(self._streams.outputs(model)) as outputs:
            for logits, batch in zip(outputs, self._streams.batches(), strict=True):
                dense = self._dense_logits[start : start + len(batch)]
                start += len(batch)
                yield SampleScores.of(dense, logits, batch.targets)

    def _remember(self, name: Hashable, scores: SampleScores) -> None:
        with self._lock:
            self._keep(name, scores)

    def _keep(self, name: Hashable, scores: SampleScores) -> None:
        self._racers[name] = scores
        self._racers.move_to_end(name)
        if len(self._racers) > RACERS:
            self._racers.popitem(last=False)

    def score_near(self, model: nn.Module, base: Callable[[], nn.Module]) -> Scores:
        """Return the same scores, computing what both networks have in common only once."""
        logits = self.prefix.outputs(model, base())
        return self.score(model) if logits is None else self._compare(torch.cat(logits))

    def _compare(self, logits: Tensor) -> Scores:
        return compare(self._dense_logits, logits, self._samples.targets)


class CustomScorer(Scorer):
    """The user's own `evaluate(model) -> score`, higher is better.

    It is given a copy of the network as it would be handed out, to do anything with: train it,
    leave it in training mode, convert it, hang hooks on it.
    """

    def __init__(self, dense: nn.Module, evaluate: Callable[[nn.Module], float]) -> None:
        """Run it on the dense network once.

        Raises:
            EvaluateError: it raises.
            UsageError: it returns no finite number there.
        """
        self._evaluate = evaluate
        self.dense = self.score(dense)
        if not math.isfinite(self.dense.custom or 0.0):
            raise UsageError(
                "evaluate(model) must return a finite number for the dense network, but it "
                f"returned {self.dense.custom}."
            )

    def score(self, model: nn.Module) -> Scores:
        """Return what the user's function says.

        Raises:
            EvaluateError: it raises, or returns no number.
        """
        given = deep_copy(model)
        with user_code(_evaluate_failed), torch.enable_grad():
            answer = self._evaluate(given)
        value = number_in(answer)
        if value is None:
            raise EvaluateError(
                f"evaluate(model) must return a number, but it returned {type_of(answer)}."
            )
        return Scores(custom=value)


def find_evaluate(
    wanted: Callable[[nn.Module], float] | str | None,
) -> Callable[[nn.Module], float] | None:
    """Return the user's own score that is meant; None where none is.

    Args:
        wanted: the function, or `path/to/file.py:function` or `package.module:function`.

    Raises:
        UsageError: there is no such function, or it cannot be called.
    """
    if wanted is None or callable(wanted):
        return wanted
    if not isinstance(wanted, str):
        raise UsageError(
            f"evaluate must be a function or the name of one, but got {type_of(wanted)}."
        )
    found = load_object(wanted, "evaluate")
    if not callable(found):
        raise UsageError(
            f"evaluate {wanted!r} names no function: {type(found).__name__} is not callable."
        )
    score: Callable[[nn.Module], float] = found
    return score


def _evaluate_failed(reason: str) -> EvaluateError:
    return EvaluateError(f"evaluate(model) raised {reason}")


def compare(dense: Tensor, logits: Tensor, targets: Tensor | None) -> Scores:
    """Return the scores of class scores (samples, classes) beside the dense network's."""
    return SampleScores.of(dense, logits, targets).mean()


def score_split(
    dense: nn.Module,
    others: Sequence[nn.Module],
    split: Split,
    note: Callable[[str], None] = lambda text: None,
) -> list[Scores]:
    """Return the scores of the dense network and of others on a whole split, batch by batch.

    Args:
        dense: the network that others are compared with.
        others: the networks to compare.
        split: what they are compared on.
        note: told if the dense network's answers are odd.

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
    return [compare(reference, torch.cat(own), truth) for own in logits]


def _batch_size(split: Split) -> int:
    """Return how many samples of a split are read at once: few where they are large."""
    return max(1, min(GPU_BATCH, MAX_BYTES // split.take([0]).sample_bytes))


def class_logits(model: nn.Module, samples: Samples) -> Tensor:
    """Return the dense network's class scores, (samples, classes), after checking them.

    Raises:
        ModelError: its output is no (samples, classes) tensor, or not finite.
        DataError: it cannot take the samples.
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
            "than classification give a score: --evaluate file.py:function, from Python evaluate=."
        )
    if logits[0].shape[1] == 1:
        raise ModelError(
            "the model gives one number per sample, which has no KL: its only class would have "
            "the probability 1 whatever the network does; give a score, e.g. minus the mean "
            "squared error: --evaluate file.py:function, from Python evaluate=."
        )
    result = torch.cat(logits)
    if len(result) != len(samples):
        raise ModelError(
            f"the model's output must be (samples, classes), but it has {len(result)} rows for "
            f"{len(samples)} samples."
        )
    if not bool(result.isfinite().all()):
        raise ModelError("the dense model's outputs are not finite on the search images.")
    return result


def _logits(model: nn.Module, samples: Samples) -> Iterable[Tensor]:
    with torch.no_grad():
        for batch in in_turn(samples):
            yield class_scores(run(model, batch.inputs))

"""What a network is trained to do: the task's loss, and what the dense network answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from autoprune.core.plugins import load_object
from autoprune.core.precision import at_least_single
from autoprune.data import NO_LABEL, Samples, check_labels
from autoprune.errors import ModelError, UsageError, type_of, user_code
from autoprune.structure.inputs import class_scores, run
from autoprune.structure.output_distance import Distance, output_distance, users_distance
from autoprune.training.features import FeatureMatching, LastPooling
from autoprune.training.own_losses import own_loss
from autoprune.training.random_batches import Batch

TaskLoss: TypeAlias = Callable[[Any, Any], Tensor]
"""(the network's outputs, targets) → scalar."""

# A smaller share of labels in a batch of mixed samples counts as this.
SMALLEST_SHARE = 1e-6
# Memory for answers of the teacher, bytes.
ANSWERS = 500_000_000


@dataclass(frozen=True)
class Distillation:
    """How much the dense network's answers count, and how they are compared.

    Attributes:
        weight: of the answers, in [0, 1]; the task's loss gets the rest.
        temperature: that softens class probabilities (Hinton et al. 2015, "Distilling the
            Knowledge in a Neural Network", section 2).
    """

    weight: float = 0.9
    temperature: float = 4.0


class Teacher:
    """The dense network, whose answers are remembered where samples come again unchanged."""

    def __init__(self, network: nn.Module, remembered: int = 0) -> None:
        """Hold a network.

        Args:
            network: in evaluation mode.
            remembered: number of samples whose inputs are equal wherever their index is; 0 where
                they are not, and nothing can be remembered.
        """
        self.network = network
        self._answers: Tensor | None = None
        self._known = torch.zeros(remembered, dtype=torch.bool)

    def answer(self, batch: Batch) -> Any:
        """Return the network's outputs; class scores alone where they are remembered."""
        if self._answers is not None and bool(self._known[batch.indices].all()):
            return self._answers[batch.indices]
        with torch.no_grad():
            outputs = run(self.network, batch.samples.inputs)
        scores = class_scores(outputs)
        if len(self._known) and isinstance(scores, Tensor) and len(scores) == len(batch.indices):
            self._remember(batch.indices, scores)
        return outputs

    def _remember(self, indices: list[int], scores: Tensor) -> None:
        if self._answers is None:
            if scores[:1].nbytes * len(self._known) > ANSWERS:
                self._known = self._known[:0]
                return
            self._answers = scores.new_empty(len(self._known), *scores.shape[1:])
        self._answers[indices], self._known[indices] = scores, True


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of a training step.

    Attributes:
        classes: number of classes of a classifier; None for any other network.
        has_labels: whether samples have targets.
        loss: the user's own; cross entropy on class labels by default.
        label_smoothing: of the cross entropy (Szegedy et al. 2016, section 7).
        teacher: the dense network; None without distillation.
        distillation: how its answers count.
        features: how what the last pooling reads is compared with the teacher's; None if it is not.
        distance: the user's own, of outputs from the teacher's; by default KL of class scores, and
            squared errors of others.
        annotations: name of the argument by which the network takes annotations, and returns its
            losses in training mode; None if it does not.
    """

    classes: int | None
    has_labels: bool
    loss: TaskLoss | None = None
    label_smoothing: float = 0.0
    teacher: Teacher | None = None
    distillation: Distillation = Distillation()
    features: FeatureMatching | None = None
    distance: Distance | None = None
    annotations: str | None = None

    def __post_init__(self) -> None:
        if self.learns_task or self.teacher is not None:
            return
        why = "the data have no labels" if self.classes else "the network is no classifier"
        raise UsageError(
            f"there is nothing to learn from: {why}, no loss is given, and distillation is off."
        )

    @property
    def learns_task(self) -> bool:
        """Whether targets count."""
        is_known = self.loss is not None or self.classes is not None
        return self.has_labels and (is_known or self.annotations is not None)

    def __call__(self, network: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """Run a network, and return its loss.

        Args:
            network: in training, perhaps wrapped.
            batch: what it is given.

        Raises:
            ModelError: the network fails, or nothing in its outputs can be compared with the dense
                network's.
            UsageError: the user's loss raises, or returns no scalar.
            DataError: labels do not fit.
        """
        if self.features is None or self.teacher is None:
            return self.of_outputs(self._outputs(network, batch), batch)
        with LastPooling() as own:
            outputs = self._outputs(network, batch)
        with LastPooling() as dense:
            answers = self.teacher.answer(batch)
        matching = self.features.weight * self.features.error(own, dense)
        return matching + self.of_outputs(outputs, batch, answers)

    def of_outputs(self, outputs: Any, batch: Batch, answers: Any = None) -> Float[Tensor, ""]:
        """Return the loss of a network's outputs, but for that of features.

        Args:
            outputs: of the network in training.
            batch: what it was given.
            answers: the teacher's, where they are known already.
        """
        parts = []
        share = self.distillation.weight if self.teacher is not None else 0.0
        if not self.learns_task:
            share = 1.0
        if share < 1:
            parts.append((1 - share) * self._task_loss(outputs, batch.samples))
        if share > 0 and self.teacher is not None:
            answers = self.teacher.answer(batch) if answers is None else answers
            parts.append(share * self._distance(outputs, answers))
        return torch.stack(parts).sum()

    def _task_loss(self, outputs: Any, samples: Samples) -> Tensor:
        targets = samples.targets
        if self.loss is not None:
            return _users_loss(
                self.loss, outputs, samples.annotations if targets is None else targets
            )
        if self.annotations is not None:
            return own_loss(outputs)
        if targets is None or self.classes is None:
            raise ModelError("cross entropy needs class scores and labels.")
        scores = at_least_single(class_scores(outputs))
        if targets.is_floating_point():
            return self._of_mixtures(scores, targets)
        check_labels(samples, self.classes)
        if not bool((targets != NO_LABEL).any()):
            return scores.sum() * 0
        return F.cross_entropy(
            scores, targets, ignore_index=NO_LABEL, label_smoothing=self.label_smoothing
        )

    def _of_mixtures(
        self, scores: Float[Tensor, "samples classes"], shares: Float[Tensor, "samples classes"]
    ) -> Tensor:
        """Return the cross entropy of mixed samples; the part without a label does not count."""
        labelled = shares.sum(1, keepdim=True)
        smooth = self.label_smoothing
        wanted = (1 - smooth) * shares + smooth * labelled / shares.shape[1]
        summed = -(wanted * scores.log_softmax(1)).sum()
        return summed / labelled.sum().clamp_min(SMALLEST_SHARE)

    def _outputs(self, network: nn.Module, batch: Batch) -> Any:
        samples = batch.samples
        told = {} if self.annotations is None else {self.annotations: samples.annotations}
        with user_code(lambda reason: ModelError(f"the network fails in training mode: {reason}")):
            return run(network, samples.inputs, **told)

    def _distance(self, outputs: Any, answers: Any) -> Tensor:
        if self.distance is not None:
            return users_distance(self.distance, outputs, answers)
        if self.classes is None:
            return output_distance(outputs, answers)
        return soft_divergence(
            class_scores(outputs), class_scores(answers), self.distillation.temperature
        )


def find_loss(wanted: TaskLoss | str | None) -> TaskLoss | None:
    """Return the user's own loss that is meant; None where none is.

    Args:
        wanted: the function, or `path/to/file.py:function` or `package.module:function`.

    Raises:
        UsageError: there is no such function, or it cannot be called.
    """
    found = load_object(wanted, "loss") if isinstance(wanted, str) else wanted
    if found is not None and not callable(found):
        raise UsageError(f"loss must be a function, but got {type_of(found)}.")
    loss: TaskLoss | None = found
    return loss


def soft_divergence(
    scores: Float[Tensor, "samples classes"],
    answers: Float[Tensor, "samples classes"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the KL divergence from softened answers, times the square of the temperature.

    Hinton et al. 2015, section 2: with the square, gradients keep their size.
    """
    own, dense = ((at_least_single(one) / temperature).log_softmax(1) for one in (scores, answers))
    return temperature**2 * F.kl_div(own, dense, reduction="batchmean", log_target=True)


def _users_loss(loss: TaskLoss, outputs: Any, targets: Any) -> Tensor:
    with user_code(lambda reason: UsageError(f"loss(outputs, targets) raised {reason}")):
        found = loss(outputs, targets)
    if not isinstance(found, Tensor) or math.prod(found.shape) != 1:
        seen = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type_of(found)
        raise UsageError(f"loss(outputs, targets) must return a scalar tensor, but got {seen}.")
    return found.reshape(())

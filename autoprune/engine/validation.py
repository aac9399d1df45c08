"""What a network in training is judged by: images that neither it nor the search learnt from."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import nn

from autoprune.core.randomness import kept_random_states
from autoprune.data import Samples, Split
from autoprune.data.splits import SamplesSplit
from autoprune.errors import AutopruneError, DataError, ModelError, first_line, user_code
from autoprune.evaluation.classification import class_logits, score_split
from autoprune.evaluation.measurement import Scores
from autoprune.evaluation.scoring import Scorer
from autoprune.structure.surgery import deep_copy
from autoprune.structure.tracing.training_only import in_training_mode
from autoprune.training.objective import Objective, Teacher
from autoprune.training.random_batches import Batch
from autoprune.training.training_values import Validation

log = logging.getLogger(__name__)

# How much less accurate than its pupil a teacher may be.
DOUBTFUL_TEACHER = 0.05
# Samples of a batch whose loss is computed; images of detectors are large.
BATCH, DETECTOR_BATCH = 64, 4


@dataclass(frozen=True, eq=False)
class ByScore:
    """Judges by accuracy or the user's own score, and what learns from the dense network by that.

    Two networks that are right on 93 % of 2,000 images and agree on 96 % differ by chance by 0.4
    points, which is more than a good training gains: of ten networks, accuracy chooses a lucky one.
    KL from the dense network differs by much less.

    Attributes:
        scorer: knows all of these.
        answers: share of the dense network's answers in what is learnt; the labels have the rest.
    """

    scorer: Scorer
    answers: float = 0.0

    def __call__(self, network: nn.Module) -> Validation:
        """Judge a network in evaluation mode."""
        scores = self.scorer.score(network)
        kl = scores.kl or 0.0
        if scores.metric is None:
            value = -kl
        elif self.answers:
            value = -self.answers * kl - (1 - self.answers) * (scores.loss or 0.0)
        else:
            value = scores.metric
        return Validation(value, figures_of(scores))


def figures_of(scores: Scores) -> dict[str, float]:
    """Return the scores that are known, by their names in files."""
    named = {"top1": scores.top1, "loss": scores.loss, "kl": scores.kl, "score": scores.custom}
    return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, eq=False)
class ByLoss:
    """Judges by the loss itself, where a network is no classifier."""

    objective: Objective
    samples: Samples

    def __call__(self, network: nn.Module) -> Validation:
        """Judge a network in evaluation mode.

        One that computes its losses itself does so in training mode only; what it draws at random
        (the anchors that count) is the same each time.
        """
        total, size = 0.0, BATCH
        if self.objective.annotations is not None:
            network, size = in_training_mode(network), DETECTOR_BATCH
        with kept_random_states(), torch.no_grad():
            torch.manual_seed(0)
            for samples in self.samples.batches(size):
                loss = self.objective(network, Batch(0, samples, []))
                total += len(samples) * float(loss)
        mean = total / len(self.samples)
        return Validation(-mean, {"loss": mean})


def loss_on(samples: Samples, objective: Objective, dense: nn.Module) -> ByLoss:
    """Return what judges by a training's loss on other samples than it trains on."""
    teacher = None if objective.teacher is None else Teacher(dense)
    return ByLoss(replace(objective, teacher=teacher), samples)


def number_of_classes(dense: nn.Module, samples: Samples) -> int | None:
    """Return the number of classes of a classifier; None for any other network.

    A network with targets that are no class labels is none.
    """
    if samples.annotations or (samples.targets is not None and not samples.labelled):
        return None
    try:
        return class_logits(dense, samples.first(2)).shape[1]
    except ModelError:
        return None


def check_teacher(dense: float | None, pupil: float | None) -> None:
    """Refuse a dense network that was not given its trained weights.

    Args:
        dense: its accuracy, if it is known.
        pupil: that of the pruned network.

    Raises:
        ModelError: the teacher is clearly worse than its pupil.
    """
    if dense is not None and pupil is not None and dense < pupil - DOUBTFUL_TEACHER:
        raise ModelError(
            f"the dense network is right on {dense:.1%} of the validation images, the pruned one "
            f"on {pupil:.1%}: give the dense one its trained weights, or turn distillation off."
        )


def final_scores(
    dense: nn.Module, network: nn.Module, test: Split | None, selection: Samples
) -> Scores | None:
    """Return the scores on the test split, without one on the selection samples.

    A damaged test split costs the figures, not the training; then None.
    """
    split = SamplesSplit(selection) if test is None else test
    try:
        with user_code(DataError, passes=(AutopruneError,)):
            return score_split(dense, [deep_copy(network)], split)[1]
    except AutopruneError as error:
        log.warning("the test split cannot be scored: %s", first_line(error))
        return None

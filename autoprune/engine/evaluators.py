"""What measures candidates: the search evaluator, and those of the finalists and the winner."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

from torch import nn

from autoprune.core.policy import Widths
from autoprune.core.threads import within
from autoprune.data import mixed_pairs
from autoprune.engine.builder import BATCHNORM_SAMPLES, make_builder
from autoprune.engine.context import Evaluate, SearchContext
from autoprune.engine.problem import PruningProblem
from autoprune.errors import RunError
from autoprune.evaluation.classification import ClassificationScorer
from autoprune.evaluation.evaluator import Build, Builder, Evaluator
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.evaluation.outputs import OutputScorer, gives_class_scores
from autoprune.evaluation.reward import DEFAULT_REWARD, check_labels
from autoprune.evaluation.scoring import CustomScorer, Scorer
from autoprune.importance import check_needs, make_importance

log = logging.getLogger(__name__)


class RepairKind(str, Enum):
    """How the network of some widths is repaired, from the quickest kind to the most thorough."""

    ONE_SHOT = "one-shot"
    BATCHNORM = "one-shot+batchnorm"
    QUICK = "quick-sequential"
    SEQUENTIAL = "sequential"

    def build(self, builder: Builder) -> Build:
        """Return what builds networks that are repaired so."""
        builds: dict[RepairKind, Build] = {
            RepairKind.ONE_SHOT: builder.one_shot,
            RepairKind.BATCHNORM: builder.one_shot_with_batchnorm,
            RepairKind.QUICK: builder.quick_sequential,
            RepairKind.SEQUENTIAL: builder.sequential,
        }
        return builds[self]

    def samples(self, builder: Builder) -> int:
        """Return how many samples the repair runs through a network."""
        counts = {
            RepairKind.BATCHNORM: BATCHNORM_SAMPLES,
            RepairKind.QUICK: len(builder.quick_repair.samples),
            RepairKind.SEQUENTIAL: len(builder.repair.samples),
        }
        return counts.get(self, 0)


@dataclass(frozen=True, eq=False)
class Evaluators:
    """What builds and measures candidates.

    Attributes:
        builder: makes networks.
        search: the search evaluator, on the search images.
        search_repair: how it repairs candidates.
        finalists: the finalist evaluators by repair; where the KL decides, on mixed images besides
            those of the selection split.
        selection: the selection evaluators by repair, on the selection split alone.
        stops_early: whether a candidate whose KL is surely larger than the incumbent's cannot win.
        tried: measurements that choosing the search evaluator took.
    """

    builder: Builder
    search: Evaluator
    search_repair: RepairKind
    finalists: Mapping[RepairKind, Evaluator]
    selection: Mapping[RepairKind, Evaluator]
    stops_early: bool
    tried: int

    @property
    def dense(self) -> Scores:
        """Scores of the dense network on the search images."""
        return self.search.dense

    @property
    def on_mixed_images(self) -> bool:
        """Whether finalists are compared on more images than those of the selection split."""
        return self.finalists is not self.selection

    def forwards(self, measurement: Measurement | None = None) -> int:
        """Return how many samples the search evaluator ran through networks for a measurement.

        Args:
            measurement: one of its measurements; None for one that scores all images.
        """
        repaired = self.search_repair.samples(self.builder)
        whole = repaired + self.dense.samples
        if measurement is None:
            return whole
        return repaired + measurement.scores.samples + measurement.others_scored * whole

    def finalist_forwards(self, repair: RepairKind) -> int:
        """Return how many samples judging a finalist runs through networks."""
        return self.finalists[repair].dense.samples + repair.samples(self.builder)


def make_evaluators(
    context: SearchContext, problem: PruningProblem, source: nn.Module | None = None
) -> Evaluators:
    """Gather what building candidates needs, and choose the search evaluator.

    Args:
        context: of the search.
        problem: what is chosen.
        source: the network that candidates are cut out of, of the dense one's shape; by default
            the dense one, which they are compared with in any case.

    Raises:
        RunError: the run was begun with a search evaluator that is not known.
        DataError: the images or labels do not fit the network.
        UsageError: the reward or the importance needs labels, and there are none.
        ModelError: the network's outputs cannot be compared, and there is no `evaluate`.
    """
    check_needs(make_importance(context.config.importance), context.images.calibration)
    scorers = _scorers(context)
    check_labels(context.config.reward, scorers.search.dense)
    builder = make_builder(context if source is None else replace(context, model=source), problem)
    choice = _Choice(context, problem, builder)

    def evaluators(repairs: Iterable[RepairKind], scorer: Scorer) -> dict[RepairKind, Evaluator]:
        return {
            kind: Evaluator(kind.build(builder), scorer, problem.costs, problem.structure)
            for kind in repairs
        }

    tried = evaluators(choice.of_search(), scorers.search)
    with context.clock.stage("judge"):
        search_repair = choice.best(tried)
    repairs = choice.of_finalists(search_repair)
    selection = evaluators(repairs, scorers.selection)
    mixed = scorers.finalists is not scorers.selection
    made = Evaluators(
        builder=builder,
        search=tried[search_repair],
        search_repair=search_repair,
        finalists=evaluators(repairs, scorers.finalists) if mixed else selection,
        selection=selection,
        stops_early=scorers.decided_by_kl,
        tried=0 if "judge" in context.begun else len(tried),
    )
    context.clock.count(*[made.forwards()] * made.tried)
    return made


def measure_candidate(
    widths: Widths, base: Widths | None, incumbent: Widths | None, evaluators: Evaluators
) -> Measurement:
    """Measure a candidate with the search evaluator (`Evaluator.measure`); work of an executor."""
    return evaluators.search.measure(widths, base, incumbent)


def build_finalist(
    widths: Widths, repair: RepairKind, evaluators: Evaluators
) -> tuple[nn.Module, Measurement]:
    """Build a finalist and measure it on fresh images; work of an executor."""
    return evaluators.finalists[repair].build(widths)


@dataclass(frozen=True, eq=False)
class _Scorers:
    """What scores candidates, finalists beside each other, and the winner.

    Attributes:
        decided_by_kl: whether the KL of class scores is what a search goes by.
    """

    search: Scorer
    finalists: Scorer
    selection: Scorer
    decided_by_kl: bool = False


def _scorers(context: SearchContext) -> _Scorers:
    model, images = context.model, context.images
    if context.evaluate is not None:
        custom = CustomScorer(model, _limited(context.evaluate, context.config.trial_timeout))
        return _Scorers(custom, custom, custom)
    if context.distance is not None or not gives_class_scores(model, images.search):
        if context.distance is None:
            log.info(
                "the network gives no class scores: its score is minus the distance of its outputs "
                "from the dense network's, in units of their variance"
            )
        near, apart = (
            OutputScorer(model, one, context.distance) for one in (images.search, images.selection)
        )
        return _Scorers(near, apart, apart)
    search = ClassificationScorer(model, images.search, classes=images.classes)
    if search.doubt:
        log.warning("%s", search.doubt)
    selection = ClassificationScorer(model, images.selection)
    by_kl = context.config.reward == DEFAULT_REWARD
    mixed = mixed_pairs(images.unread, images.selection, context.config.seed) if by_kl else None
    if mixed is None:
        return _Scorers(search, selection, selection, by_kl)
    return _Scorers(search, ClassificationScorer(model, images.selection, mixed), selection, by_kl)


def _limited(evaluate: Evaluate, seconds: float | None) -> Evaluate:
    """Return the user's own score, which fails if it takes longer."""
    return evaluate if seconds is None else lambda model: within(seconds, partial(evaluate, model))


@dataclass(frozen=True, eq=False)
class _Choice:
    """Chooses how candidates and finalists are repaired."""

    context: SearchContext
    problem: PruningProblem
    builder: Builder

    def of_search(self) -> list[RepairKind]:
        """Return the repairs among which the search evaluator is chosen, the quickest first.

        A resumed search has the one that it was begun with.

        Raises:
            RunError: there is no such repair.
        """
        kinds = [RepairKind.ONE_SHOT, RepairKind.BATCHNORM, RepairKind.QUICK]
        begun = self.context.begun.get("judge")
        if begun is None:
            return kinds if self._quick_is_affordable() else kinds[:-1]
        if begun not in [kind.value for kind in kinds]:
            raise RunError(f"the run was begun with the judge {begun!r}, which is not known.")
        return [RepairKind(begun)]

    def _quick_is_affordable(self) -> bool:
        """Whether every candidate can be repaired quickly.

        That is little work beside scoring it, and as many as are on their way fit into memory.
        """
        quick, at_once = self.builder.quick_repair, self.context.at_once
        macs = self.problem.costs["flops"].total(self.problem.space.sizes)
        scoring = len(self.context.images.search) * macs
        fits = at_once == 1 or at_once * len(quick.samples) <= len(self.builder.repair.samples)
        return fits and quick.work() <= self.context.limits.repair.affordable * scoring

    def best(self, tried: Mapping[RepairKind, Evaluator]) -> RepairKind:
        """Return the first repair, unless a later one is clearly better for the uniform widths.

        These are half of every group where there is no budget; with one, only proportions matter.
        What BN re-estimation gains over the variances known from the moments differs by network.
        """
        best, *others = tried
        if not others:
            return best
        uniform = self.problem.projection.uniform(0.5)
        # `measure` would cache scores by widths alone, for all repairs that share a scorer.
        scores = tried[best].build(uniform)[1].scores
        for kind in others:
            theirs = tried[kind].build(uniform)[1].scores
            if self._clearly_better(theirs, scores):
                best, scores = kind, theirs
        return best

    def _clearly_better(self, a: Scores, b: Scores) -> bool:
        if a.kl is None or b.kl is None:
            return (a.custom or 0.0) > (b.custom or 0.0)
        return a.kl < self.context.limits.repair.clearly_better * b.kl

    def of_finalists(self, search_repair: RepairKind) -> list[RepairKind]:
        """Return the repairs of finalists: the search's, the thorough one, a quick one if it pays.

        It pays where it saves enough, and a score costs no call of the user's.
        """
        repairs = [search_repair, RepairKind.SEQUENTIAL]
        quick, thorough = self.builder.quick_repair.work(), self.builder.repair.work()
        if self.context.evaluate is None and self.context.limits.repair.pays * quick <= thorough:
            repairs.append(RepairKind.QUICK)
        return list(dict.fromkeys(repairs))

"""Evaluation of candidates: from widths to a measurement, by cutting, repairing and scoring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from msgspec.structs import replace
from torch import nn

from autoprune.core.policy import PruningPolicy, Widths
from autoprune.core.stages import StageTimes
from autoprune.cost.model import CostModel
from autoprune.data import Samples
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.evaluation.sample_scores import SampleScores
from autoprune.evaluation.scoring import Scorer
from autoprune.importance.base import Ranking
from autoprune.reconstruction.batchnorm import reestimate_batchnorm
from autoprune.reconstruction.mean_shifts import BranchMeans
from autoprune.reconstruction.refit import Refitter
from autoprune.reconstruction.sequential import QUICK_EFFORT, SequentialRepair
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import Keep, cut, kept_positions

Build: TypeAlias = Callable[[Widths, StageTimes], nn.Module]
"""(widths, stage times to add to) → the network of these widths."""


class Builder:
    """Builds the network of any widths without training; each kind of repair is a `Build`.

    Attributes:
        rankings: order of the units of every group, which says which are kept at a width.
        repair: sequential reconstruction, for finalists.
        quick_repair: the same at less effort, to prescreen finalists.
    """

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        rankings: Sequence[Ranking],
        refitter: Refitter,
        batchnorm_samples: Samples,
        repair: SequentialRepair,
        means: BranchMeans | None = None,
    ) -> None:
        self._means = means or BranchMeans(model, structure, {})
        self._model = model
        self._structure = structure
        self.rankings = rankings
        self._refitter = refitter
        self._batchnorm_samples = batchnorm_samples
        self.repair = repair
        self.quick_repair = repair.with_effort(QUICK_EFFORT)

    def policy(self, widths: Widths) -> PruningPolicy:
        """Return the policy of some widths: the units that are kept."""
        kept = [ranking.kept(w) for ranking, w in zip(self.rankings, widths, strict=True)]
        return self._structure.policy(kept)

    def one_shot(self, widths: Widths, times: StageTimes | None = None) -> nn.Module:
        """Cut, and refit every layer on the dense network's inputs: cheap enough for candidates."""
        return self._cut(widths, times or StageTimes())[0]

    def _cut(self, widths: Widths, times: StageTimes) -> tuple[nn.Module, Keep]:
        with times.stage("surgery"):
            policy = self.policy(widths)
            keep = kept_positions(self._model, policy)
            weights = self._refitter.tensors(keep)
            weights |= self._means.absorbed(self._structure.gone(widths), keep, weights)
            return cut(self._model, keep, weights, **policy.changes), keep

    def one_shot_with_batchnorm(self, widths: Widths, times: StageTimes | None = None) -> nn.Module:
        """Build as `one_shot`, then re-estimate BN statistics on data."""
        times = times or StageTimes()
        small = self.one_shot(widths, times)
        with times.stage("batchnorm"):
            reestimate_batchnorm(small, self._batchnorm_samples, self._structure.untouched)
        return small

    def sequential(self, widths: Widths, times: StageTimes | None = None) -> nn.Module:
        """Cut, and refit layer after layer on the pruned prefix: the repair of finalists."""
        return self._repaired(widths, times or StageTimes(), self.repair)

    def quick_sequential(self, widths: Widths, times: StageTimes | None = None) -> nn.Module:
        """Build as `sequential`, on fewer samples and rows."""
        return self._repaired(widths, times or StageTimes(), self.quick_repair)

    def _repaired(self, widths: Widths, times: StageTimes, repair: SequentialRepair) -> nn.Module:
        small, keep = self._cut(widths, times)
        with times.stage("sequential"):
            repair.repair(small, keep, self._structure.gone(widths))
        return small


class Evaluator:
    """Measures candidates; equal widths are always measured in the same way."""

    def __init__(
        self,
        build: Build,
        scorer: Scorer,
        costs: Mapping[str, CostModel],
        structure: Structure,
    ) -> None:
        self._build = build
        self._scorer = scorer
        self._costs = costs
        self._structure = structure
        self._names = tuple(group.name for group in structure.groups)
        self._base: tuple[Widths, nn.Module] | None = None
        self._dense_costs = {n: c.total(structure.dense_widths) for n, c in costs.items()}

    @property
    def dense(self) -> Scores:
        """Scores of the dense network on the same images."""
        return self._scorer.dense

    def measure(
        self, widths: Widths, base: Widths | None = None, incumbent: Widths | None = None
    ) -> Measurement:
        """Build the network of some widths and measure it.

        Args:
            widths: widths of the candidate.
            base: widths of a network from which several successive candidates differ little.
            incumbent: widths of a better network; scoring may stop early if this one is surely
                worse.
        """
        times = StageTimes()
        others: list[Widths] = []
        small = self._build(widths, times)
        score = partial(self._scorer.score_as, key=widths)
        if base is not None:
            score = partial(self._scorer.score_near, base=partial(self._base_network, base))
        elif incumbent is not None:
            build = partial(self._noted_network, incumbent, others)
            score = partial(self._scorer.score_against, key=widths, incumbent=(incumbent, build))
        measured = self._measure(small, widths, times, score)
        return replace(measured, others_scored=len(others))

    def by_sample(self, widths: Widths) -> SampleScores | None:
        """Return the scores by sample of a network that was measured lately, if they are known."""
        return self._scorer.by_sample(widths)

    def remember(self, widths: Widths, scores: SampleScores) -> None:
        """Take the scores by sample of a network that was measured elsewhere."""
        self._scorer.remember(widths, scores)

    def build(self, widths: Widths) -> tuple[nn.Module, Measurement]:
        """Build the network of some widths and return it with its measurement."""
        times = StageTimes()
        small = self._build(widths, times)
        return small, self._measure(small, widths, times, self._scorer.score)

    def measure_network(self, small: nn.Module, widths: Widths) -> Measurement:
        """Measure an existing network of some widths."""
        return self._measure(small, widths, StageTimes(), self._scorer.score)

    def _measure(
        self,
        small: nn.Module,
        widths: Widths,
        times: StageTimes,
        score: Callable[[nn.Module], Scores],
    ) -> Measurement:
        with times.stage("surgery"):
            scored = self._scorer.prepare(small, self._structure)
        with times.stage("scoring"):
            scores = score(scored)
        return self._measurement(widths, scores, times.seconds)

    def _base_network(self, widths: Widths) -> nn.Module:
        """Return the network that is scored for a base, caching the last; its time is scoring."""
        if self._base is None or self._base[0] != widths:
            self._base = widths, self._scored_network(widths)
        return self._base[1]

    def _noted_network(self, widths: Widths, others: list[Widths]) -> nn.Module:
        others.append(widths)
        return self._scored_network(widths)

    def _scored_network(self, widths: Widths) -> nn.Module:
        return self._scorer.prepare(self._build(widths, StageTimes()), self._structure)

    def _measurement(
        self, widths: Widths, scores: Scores, seconds: Mapping[str, float]
    ) -> Measurement:
        return Measurement(
            widths=widths,
            names=self._names,
            scores=scores,
            dense=self._scorer.dense,
            costs={name: cost.total(widths) for name, cost in self._costs.items()},
            dense_costs=self._dense_costs,
            seconds=dict(seconds),
        )

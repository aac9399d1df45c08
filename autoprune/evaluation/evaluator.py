"""From widths to a measurement: cut, repair, score. No training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from torch import nn

from autoprune.core.policy import PruningPolicy, Widths
from autoprune.cost.model import CostModel
from autoprune.data import Samples
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.evaluation.scoring import Scorer
from autoprune.importance.base import Ranking
from autoprune.reconstruction.batchnorm import reestimate_batchnorm
from autoprune.reconstruction.refit import Refitter
from autoprune.reconstruction.sequential import QUICK_EFFORT, SequentialRepair
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import Keep, cut, kept_positions

Build: TypeAlias = Callable[[Widths, dict[str, float]], nn.Module]
"""(widths, seconds by stage, which are added to) → the network of these widths."""


class Builder:
    """Makes the network of any widths, untrained, with more or less repair (each a `Build`).

    Attributes:
        rankings: which units stay at every width.
        repair: sequential reconstruction, for the finalists.
        quick_repair: the same at less effort, to choose the finalists.
    """

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        rankings: Sequence[Ranking],
        refitter: Refitter,
        batchnorm_samples: Samples,
        repair: SequentialRepair,
    ) -> None:
        self._model = model
        self._structure = structure
        self.rankings = rankings
        self._refitter = refitter
        self._batchnorm_samples = batchnorm_samples
        self.repair = repair
        self.quick_repair = repair.with_effort(QUICK_EFFORT)

    def policy(self, widths: Widths) -> PruningPolicy:
        """Return which units stay."""
        kept = [ranking.kept(w) for ranking, w in zip(self.rankings, widths, strict=True)]
        return self._structure.policy(kept)

    def one_shot(self, widths: Widths, seconds: dict[str, float]) -> nn.Module:
        """Refit every layer to the dense network's inputs: cheap enough for every candidate."""
        return self._cut(widths, seconds)[0]

    def _cut(self, widths: Widths, seconds: dict[str, float]) -> tuple[nn.Module, Keep]:
        with timed(seconds, "surgery"):
            keep = kept_positions(self._model, self.policy(widths))
            return cut(self._model, keep, self._refitter.tensors(keep)), keep

    def settled(self, widths: Widths, seconds: dict[str, float]) -> nn.Module:
        """`one_shot`, then BN statistics re-estimated on data."""
        small = self.one_shot(widths, seconds)
        with timed(seconds, "batchnorm"):
            reestimate_batchnorm(small, self._batchnorm_samples, self._structure.untouched)
        return small

    def sequential(self, widths: Widths, seconds: dict[str, float]) -> nn.Module:
        """Refit every layer in turn to what the layers before it give: the finalists' repair."""
        return self._repaired(widths, seconds, self.repair)

    def quick_sequential(self, widths: Widths, seconds: dict[str, float]) -> nn.Module:
        """`sequential` on fewer samples and rows."""
        return self._repaired(widths, seconds, self.quick_repair)

    def _repaired(
        self, widths: Widths, seconds: dict[str, float], repair: SequentialRepair
    ) -> nn.Module:
        small, keep = self._cut(widths, seconds)
        with timed(seconds, "sequential"):
            repair.repair(small, keep)
        return small


class Evaluator:
    """Measures candidates, each width vector the same way every time."""

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

    def measure(
        self, widths: Widths, base: Widths | None = None, rival: Widths | None = None
    ) -> Measurement:
        """Build the network of these widths and score it.

        Args:
            widths: of the candidate.
            base: widths of a network that several candidates in a row differ little from.
            rival: widths of a better network: scoring may stop where this one is surely worse.
        """
        seconds: dict[str, float] = {}
        others: list[Widths] = []
        small = self._build(widths, seconds)
        score = self._scorer.score
        if base is not None:
            score = partial(self._scorer.score_near, base=partial(self._base_network, base))
        elif rival is not None:
            named = rival, partial(self._noted_network, rival, others)
            score = partial(self._scorer.score_against, key=widths, incumbent=named)
        measured = self._judge(small, widths, seconds, score)
        return replace(measured, others_scored=len(others))

    def build(self, widths: Widths) -> tuple[nn.Module, Measurement]:
        """Return the network of these widths with its measurement."""
        seconds: dict[str, float] = {}
        small = self._build(widths, seconds)
        return small, self._judge(small, widths, seconds, self._scorer.score)

    def judge(self, small: nn.Module, widths: Widths) -> Measurement:
        """Measure a network of these widths that is there already."""
        return self._judge(small, widths, {}, self._scorer.score)

    def _judge(
        self,
        small: nn.Module,
        widths: Widths,
        seconds: dict[str, float],
        score: Callable[[nn.Module], Scores],
    ) -> Measurement:
        with timed(seconds, "surgery"):
            scored = self._scorer.prepare(small, self._structure)
        with timed(seconds, "scoring"):
            scores = score(scored)
        return self._measurement(widths, scores, seconds)

    def _base_network(self, widths: Widths) -> nn.Module:
        """Return what is scored for a base, remembering the last one; it counts as scoring."""
        if self._base is None or self._base[0] != widths:
            self._base = widths, self._scored_network(widths)
        return self._base[1]

    def _noted_network(self, widths: Widths, others: list[Widths]) -> nn.Module:
        others.append(widths)
        return self._scored_network(widths)

    def _scored_network(self, widths: Widths) -> nn.Module:
        return self._scorer.prepare(self._build(widths, {}), self._structure)

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
            seconds=seconds,
        )


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time spent inside to a stage."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start

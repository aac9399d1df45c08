"""From widths to a measurement: cut, refit, re-estimate BN, score. No training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import nn

from autoprune.cost.model import CostModel
from autoprune.data import Samples
from autoprune.evaluation.measurement import Measurement
from autoprune.evaluation.scoring import Scorer
from autoprune.importance.base import Ranking
from autoprune.policy import PruningPolicy, Widths
from autoprune.reconstruction.batchnorm import fold_batchnorm, reestimate_batchnorm
from autoprune.reconstruction.refit import Refitter
from autoprune.reconstruction.sequential import SequentialRepair
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import cut, kept_positions


class Builder:
    """Makes the network of any widths, repaired but untrained."""

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        rankings: Sequence[Ranking],
        refitter: Refitter | None,
        batchnorm_samples: Samples | None,
        repair: SequentialRepair,
    ) -> None:
        """Take the parts; without refitter or samples that step is left out."""
        self._model = model
        self._structure = structure
        self._rankings = rankings
        self._refitter = refitter
        self._batchnorm_samples = batchnorm_samples
        self._repair = repair

    def policy(self, widths: Widths) -> PruningPolicy:
        """Return which units stay."""
        kept = [ranking.kept(w) for ranking, w in zip(self._rankings, widths, strict=True)]
        return self._structure.policy(kept)

    def cut(self, widths: Widths) -> nn.Module:
        """Return the smaller network: weights refitted, BN statistics the dense network's."""
        keep = kept_positions(self._model, self.policy(widths))
        refitted = self._refitter.tensors(keep) if self._refitter else None
        return cut(self._model, keep, refitted)

    def one_shot(self, widths: Widths, seconds: dict[str, float] | None = None) -> nn.Module:
        """Return the smaller network, each layer refitted to the dense network's inputs.

        Cheap enough for every candidate. `seconds` receives the time spent by stage.
        """
        seconds = {} if seconds is None else seconds
        with timed(seconds, "surgery"):
            small = self.cut(widths)
        with timed(seconds, "batchnorm"):
            if self._batchnorm_samples is not None:
                reestimate_batchnorm(small, self._batchnorm_samples)
        return small

    def sequential(self, widths: Widths) -> nn.Module:
        """Return the smaller network, each layer refitted to what the layers before it give."""
        small = self.cut(widths)
        keep = kept_positions(self._model, self.policy(widths))
        self._repair.repair(small, keep)
        return small


class Evaluator:
    """Measures candidates, each width vector the same way every time."""

    def __init__(
        self,
        builder: Builder,
        scorer: Scorer,
        costs: Mapping[str, CostModel],
        structure: Structure,
    ) -> None:
        self._builder = builder
        self._scorer = scorer
        self._costs = costs
        self._structure = structure
        self._names = tuple(group.name for group in structure.groups)
        self._dense_costs = {n: c.total(structure.dense_widths) for n, c in costs.items()}

    def measure(self, widths: Widths) -> Measurement:
        """Build the network of these widths at one shot and score it."""
        seconds: dict[str, float] = {}
        small = self._builder.one_shot(widths, seconds)
        with timed(seconds, "surgery"):
            fold_batchnorm(small, self._structure)
        return self.measure_network(small, widths, seconds)

    def measure_network(
        self, small: nn.Module, widths: Widths, seconds: dict[str, float] | None = None
    ) -> Measurement:
        """Score a network of these widths that is there already."""
        seconds = {} if seconds is None else seconds
        with timed(seconds, "scoring"):
            scores = self._scorer.score(small)
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

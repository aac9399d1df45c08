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
from autoprune.reconstruction.batchnorm import reestimate_batchnorm
from autoprune.reconstruction.refit import Refitter
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
    ) -> None:
        """Take the parts; without refitter or samples that repair is left out."""
        self._model = model
        self._structure = structure
        self._rankings = rankings
        self._refitter = refitter
        self._batchnorm_samples = batchnorm_samples

    def policy(self, widths: Widths) -> PruningPolicy:
        """Return which units stay."""
        kept = [ranking.kept(w) for ranking, w in zip(self._rankings, widths, strict=True)]
        return self._structure.policy(kept)

    def cut(self, widths: Widths) -> nn.Module:
        """Return the smaller network with refitted weights and the dense network's BN statistics."""
        keep = kept_positions(self._model, self.policy(widths))
        refitted = self._refitter.tensors(keep) if self._refitter else None
        return cut(self._model, keep, refitted)

    def settle(self, small: nn.Module) -> None:
        """Re-estimate the BN statistics of a cut network, in place."""
        if self._batchnorm_samples is not None:
            reestimate_batchnorm(small, self._batchnorm_samples)

    def finished(self, widths: Widths) -> nn.Module:
        """Return the smaller network, repaired as far as goes without training."""
        small = self.cut(widths)
        self.settle(small)
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
        self._names = tuple(group.name for group in structure.groups)
        self._dense_costs = {n: c.total(structure.dense_widths) for n, c in costs.items()}

    def measure(self, widths: Widths) -> Measurement:
        """Build and score the network of these widths."""
        seconds: dict[str, float] = {}
        with _timed(seconds, "surgery"):
            small = self._builder.cut(widths)
        with _timed(seconds, "batchnorm"):
            self._builder.settle(small)
        with _timed(seconds, "scoring"):
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
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start

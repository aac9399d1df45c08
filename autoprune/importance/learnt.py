"""The criterion of a network that was trained to be cut: the scores that training left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float64
from torch import Tensor

from autoprune.importance.base import Evidence, Importance, Need, Ranking
from autoprune.structure.groups import ChannelGroup


class LearntImportance(Importance):
    """Scores that a training method learnt, on one scale for all groups."""

    name: ClassVar[str] = "learnt"
    needs: ClassVar[Need] = "nothing"

    def __init__(self, scores: Mapping[str, Float64[Tensor, " _units"]]) -> None:
        """Take the scores of every group, by its name."""
        self._scores = scores

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return units by falling score."""
        values = self._scores[group.name]
        return Ranking.by(values, scores=values)

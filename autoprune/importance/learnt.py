"""The criterion of a network that was trained to be cut: the scores that training left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float64
from torch import Tensor

from autoprune.errors import RunError
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
        """Return units by falling score.

        Raises:
            RunError: the scores are of another network.
        """
        values = self._scores.get(group.name)
        if values is None or values.shape != (group.size,):
            raise RunError(
                f"the learnt scores are of another network, or of other groups: there are none of "
                f"the {group.size} units of {group.name!r}."
            )
        return Ranking.by(values, scores=values)

"""Structured optimal brain surgeon as a criterion: least error of the refitted consumers."""

from __future__ import annotations

from typing import ClassVar

from autoprune.importance.base import Evidence, Importance, Need, Ranking
from autoprune.importance.consumer_inputs import consumer_inputs
from autoprune.reconstruction.obs_path import obs_path
from autoprune.structure.groups import ChannelGroup


class ObsImportance(Importance):
    """Order and error curve of one elimination per group (`reconstruction.obs_path`).

    Errors are measured behind the BN that follows a consumer: row i is scaled by γᵢ/σᵢ. The inputs
    of consumers without full moments (too many inputs, or not a plain layer) are assumed
    independent.
    """

    name: ClassVar[str] = "obs"
    needs: ClassVar[Need] = "images"
    in_threads: ClassVar[bool] = True

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return the elimination order and the summed relative error of all consumers."""
        path = obs_path(inputs.problem() for inputs in consumer_inputs(group, evidence))
        return Ranking(path.order, path.errors)

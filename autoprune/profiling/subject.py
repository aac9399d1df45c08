"""The network that is measured, and the cut networks that the correction is fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from autoprune.core.policy import Widths, hash_shapes
from autoprune.data.forms import Inputs, sample_shapes
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import apply_policy

# The number of whole networks that the correction is fitted to; the dense one is the first.
NETWORKS = 24
# Searches often round widths to multiples of this.
ROUND = 8


@dataclass(frozen=True, eq=False)
class Subject:
    """A dense network that is measured, whole and cut.

    Attributes:
        model: The dense network.
        structure: The structure of the model.
        inputs: A batch of any size.
    """

    model: nn.Module
    structure: Structure
    inputs: Inputs

    @property
    def identity(self) -> dict[str, Any]:
        """What tells measurements of whole networks from those of other networks or inputs.

        Layers could serve other networks too; timings of whole networks cannot.
        """
        return {
            "network": hash_shapes(self.structure.shapes),
            "input": sample_shapes(self.inputs),
        }

    def cut_to(self, widths: Widths) -> nn.Module:
        """Return the network with the first units of every group."""
        return apply_policy(self.model, self.structure.policy([range(width) for width in widths]))


def spread_widths(structure: Structure, count: int = NETWORKS, seed: int = 0) -> list[Widths]:
    """Return widths from the dense network to a tenth of it, with a random ratio for each group.

    Every other network has multiples of `ROUND`, so that networks on a fast path are told from
    others.
    """
    random = np.random.default_rng(seed)
    sizes = np.array(structure.dense_widths)
    drawn = [structure.dense_widths]
    for number, keep in enumerate(np.linspace(1.0, 0.1, count)[1:]):
        ratios = np.clip(keep * np.exp(random.normal(0, 0.4, len(sizes))), 0.05, 1.0)
        multiple = np.where(sizes % ROUND, 1, ROUND) if number % 2 else np.ones_like(sizes)
        units = np.maximum(np.rint(ratios * sizes / multiple), 1) * multiple
        drawn.append(tuple(units.astype(int).tolist()))
    return list(dict.fromkeys(drawn))

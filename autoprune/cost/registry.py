"""The costs that a budget can bound, by name."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoprune.cost.model import CostModel
    from autoprune.structure.groups import Structure

# Imported on demand. None of them may import PyTorch: a budget is checked before that is loaded.
_COUNTED = {
    "flops": "autoprune.cost.counts:MacsCost",
    "params": "autoprune.cost.counts:ParamsCost",
    "memory": "autoprune.cost.memory:MemoryCost",
}
_MEASURED = {"latency": "autoprune.cost.latency.model:LatencyCost"}

COUNTED = tuple(_COUNTED)
"""The costs that follow from the structure of a network; the others need measurements."""

COSTS = (*_COUNTED, *_MEASURED)


def cost_class(name: str) -> type[CostModel]:
    """Return the cost model with a name in `COSTS`."""
    found: type[CostModel] = pkgutil.resolve_name((_COUNTED | _MEASURED)[name])
    return found


def cost_models(structure: Structure, adds_bias: bool = True) -> dict[str, CostModel]:
    """Return the cost models that need no measurements, by name.

    Args:
        structure: The structure of the network.
        adds_bias: Whether reconstruction adds a bias to layers without one.
    """
    makers: dict[str, Callable[..., CostModel]] = {name: cost_class(name) for name in COUNTED}
    return {name: make(structure, adds_bias) for name, make in makers.items()}

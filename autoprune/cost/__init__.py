"""What a network of any widths costs."""

from __future__ import annotations

from typing import Any

from autoprune.cost.counts import MacsCost, ParamsCost
from autoprune.cost.memory import MemoryCost
from autoprune.cost.model import CostModel
from autoprune.structure.groups import Structure


def cost_models(structure: Structure, **options: Any) -> dict[str, CostModel]:
    """Return the cost models that need no measuring, by name."""
    models = (
        MacsCost(structure),
        ParamsCost(structure, **options),
        MemoryCost(structure, **options),
    )
    return {model.name: model for model in models}


__all__ = ["CostModel", "cost_models"]

"""The names that `autoprune.importance` offers, and the classes of all criteria."""

from __future__ import annotations

import pkgutil
from typing import Any

from autoprune.importance.base import Evidence, Importance, Ranking
from autoprune.importance.ranking import check_needs, rank_groups
from autoprune.importance.registry import IMPORTANCES, KIND, make_importance

__all__ = [
    "IMPORTANCES",
    "KIND",
    "Evidence",
    "Importance",
    "Ranking",
    "check_needs",
    "make_importance",
    "rank_groups",
]


def __getattr__(name: str) -> Any:
    for place in KIND.built_in.values():
        if place.endswith(f":{name}"):
            return pkgutil.resolve_name(place)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The names that `autoprune.importance` offers, and the classes of all criteria."""

from __future__ import annotations

import pkgutil
from typing import Any

from autoprune.importance.base import Evidence, Importance, Ranking
from autoprune.importance.ranking import check_needs, rank_groups
from autoprune.importance.registry import IMPORTANCES, KIND

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


def make_importance(wanted: str | Importance | type[Importance]) -> Importance:
    """Return a criterion.

    Args:
        wanted: a name in `IMPORTANCES` or of an installed entry point, `path/to/file.py:Class`,
            `package.module:Class`, a class, or the criterion itself.

    Raises:
        UsageError: there is no such object, or it is not a criterion.
    """
    return KIND.make(wanted, Importance)  # type: ignore[type-abstract]


def __getattr__(name: str) -> Any:
    for place in KIND.built_in.values():
        if place.endswith(f":{name}"):
            return pkgutil.resolve_name(place)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Which channels stay: importance criteria, by name."""

from __future__ import annotations

from autoprune.errors import UsageError, did_you_mean
from autoprune.importance.base import Evidence, Importance, Ranking
from autoprune.importance.magnitude import L1Importance
from autoprune.importance.obs import ObsImportance

IMPORTANCES: dict[str, type[Importance]] = {
    criterion.name: criterion for criterion in (ObsImportance, L1Importance)
}


def make_importance(name: str) -> Importance:
    """Return the criterion of that name.

    Raises:
        UsageError: no such criterion.
    """
    if name not in IMPORTANCES:
        raise UsageError(f"unknown importance {name!r}; {did_you_mean(name, IMPORTANCES)}")
    return IMPORTANCES[name]()


__all__ = ["IMPORTANCES", "Evidence", "Importance", "Ranking", "make_importance"]

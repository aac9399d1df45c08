"""Which channels stay: importance criteria, by name."""

from __future__ import annotations

from autoprune.core.plugins import Kind
from autoprune.importance.activity import (
    ApozImportance,
    BatchNormImportance,
    MeanActivationImportance,
    SeparationImportance,
)
from autoprune.importance.base import Evidence, Importance, Ranking
from autoprune.importance.magnitude import (
    CoresetImportance,
    GeometricMedianImportance,
    L1Importance,
    L2Importance,
    RandomImportance,
)
from autoprune.importance.nisp import NispImportance
from autoprune.importance.obs import ObsImportance
from autoprune.importance.ranking import check_needs, rank_groups
from autoprune.importance.selection import AofpImportance, LassoImportance, ThiNetImportance
from autoprune.importance.taylor import TaylorImportance

IMPORTANCES: dict[str, type[Importance]] = {
    criterion.name: criterion
    for criterion in (
        ObsImportance,
        LassoImportance,
        ThiNetImportance,
        AofpImportance,
        NispImportance,
        TaylorImportance,
        BatchNormImportance,
        ApozImportance,
        MeanActivationImportance,
        SeparationImportance,
        L1Importance,
        L2Importance,
        GeometricMedianImportance,
        CoresetImportance,
        RandomImportance,
    )
}
KIND = Kind("importance", "autoprune.importances", IMPORTANCES)


def make_importance(wanted: str | Importance | type[Importance]) -> Importance:
    """Return the criterion that is meant.

    Args:
        wanted: one of `IMPORTANCES`, the name of an installed entry point, `path/to/file.py:Class`,
            `package.module:Class`, a class, or the criterion itself.

    Raises:
        UsageError: there is no such criterion, or what is there is none.
    """
    return KIND.make(wanted, Importance)  # type: ignore[type-abstract]


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

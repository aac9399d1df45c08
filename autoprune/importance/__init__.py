"""Importance criteria, by name: which channels of a layer to keep.

Axes in signatures are those of `statistics`.
"""

from __future__ import annotations

from autoprune.core.plugins import call_factory, load_plugin
from autoprune.errors import UsageError
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
ENTRY_POINTS = "autoprune.importances"
"""Entry point group under which installed packages register custom criteria."""


def make_importance(name: str) -> Importance:
    """Return the criterion of a given name.

    Args:
        name: a name in `IMPORTANCES` or of an installed entry point, `path/to/file.py:Class` or
            `package.module:Class`.

    Raises:
        UsageError: there is no such object, or it is not a criterion.
    """
    if name in IMPORTANCES:
        return IMPORTANCES[name]()
    found = load_plugin(name, "importance", ENTRY_POINTS, IMPORTANCES)
    # An `Importance`, or a class or function that makes one.
    made = call_factory(found, name, "importance") if callable(found) else found
    if not isinstance(made, Importance):
        raise UsageError(
            f"importance {name!r} gives a {type(made).__name__}: it must be a subclass of "
            "autoprune.importance.Importance with name and rank(group, evidence)."
        )
    return made


__all__ = [
    "ENTRY_POINTS",
    "IMPORTANCES",
    "Evidence",
    "Importance",
    "Ranking",
    "check_needs",
    "make_importance",
    "rank_groups",
]

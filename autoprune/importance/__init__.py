"""Which channels stay: importance criteria, by name."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from autoprune.errors import UsageError, did_you_mean, first_line
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
from autoprune.plugin import load_object, names_object

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
"""The group of entry points by which installed packages offer criteria of their own."""


def make_importance(name: str) -> Importance:
    """Return the criterion of that name.

    Args:
        name: one of `IMPORTANCES`, of an installed entry point, or `path/to/file.py:Class` or
            `package.module:Class`.

    Raises:
        UsageError: there is no such criterion, or what is there is none.
    """
    if name in IMPORTANCES:
        return IMPORTANCES[name]()
    if names_object(name):
        return _instance(name, load_object(name, "importance"))
    installed = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in installed:
        known = [*IMPORTANCES, *installed]
        raise UsageError(f"unknown importance {name!r}; {did_you_mean(name, known)}")
    return _instance(name, _load(name, installed[name]))


def _load(name: str, point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UsageError(f"importance {name!r}: loading {point.value!r} fails: {reason}") from error


def _instance(name: str, found: Any) -> Importance:
    """Return a user's criterion: an `Importance`, or a class or function that makes one."""
    try:
        made = found() if callable(found) else found
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UsageError(f"importance {name!r}: calling it fails: {reason}") from error
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

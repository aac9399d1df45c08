"""Importance criteria by name; one is imported once it is chosen, for all bring PyTorch along."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.core.plugins import Kind

if TYPE_CHECKING:
    from autoprune.importance.base import Importance

KIND = Kind(
    "importance",
    "autoprune.importances",
    {
        "obs": "autoprune.importance.obs:ObsImportance",
        "lasso": "autoprune.importance.selection:LassoImportance",
        "thinet": "autoprune.importance.selection:ThiNetImportance",
        "aofp": "autoprune.importance.selection:AofpImportance",
        "nisp": "autoprune.importance.nisp:NispImportance",
        "taylor": "autoprune.importance.taylor:TaylorImportance",
        "bn_scale": "autoprune.importance.activity:BatchNormImportance",
        "apoz": "autoprune.importance.activity:ApozImportance",
        "mean_activation": "autoprune.importance.activity:MeanActivationImportance",
        "tv_separation": "autoprune.importance.activity:SeparationImportance",
        "l1": "autoprune.importance.magnitude:L1Importance",
        "l2": "autoprune.importance.magnitude:L2Importance",
        "geometric_median": "autoprune.importance.magnitude:GeometricMedianImportance",
        "coreset": "autoprune.importance.magnitude:CoresetImportance",
        "random": "autoprune.importance.magnitude:RandomImportance",
    },
)
IMPORTANCES = KIND.names


def make_importance(wanted: str | Importance | type[Importance]) -> Importance:
    """Return a criterion.

    Args:
        wanted: a name in `IMPORTANCES` or of an installed entry point, `path/to/file.py:Class`,
            `package.module:Class`, a class, or the criterion itself.

    Raises:
        UsageError: there is no such object, or it is not a criterion.
    """
    from autoprune.importance.base import Importance

    return KIND.make(wanted, Importance)  # type: ignore[type-abstract]

"""Importance criteria by name; one is imported once it is chosen, for all bring PyTorch along."""

from __future__ import annotations

from autoprune.core.plugins import Kind

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

"""Training methods by name; one is imported once it is chosen, for all bring PyTorch along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from autoprune.core.plugins import Kind

if TYPE_CHECKING:
    from autoprune.methods.base import TrainingMethod

Wanted: TypeAlias = "str | TrainingMethod | type[TrainingMethod]"
"""A name, `path/to/file.py:Name`, `package.module:Name`, an entry point, or the method itself."""

KIND = Kind(
    "method",
    "autoprune.methods",
    {
        "slimming": "autoprune.methods.slimming:Slimming",
        "group_lasso": "autoprune.methods.group_lasso:GroupLasso",
        "sfp": "autoprune.methods.sfp:SoftFilterPruning",
        "agp": "autoprune.methods.agp:GradualPruning",
        "iterative": "autoprune.methods.iterative:IterativePruning",
        "greg": "autoprune.methods.greg:GrowingRegularization",
        "c_sgd": "autoprune.methods.c_sgd:CentripetalSgd",
        "resrep": "autoprune.methods.resrep:ResRep",
        "autopruner": "autoprune.methods.autopruner:AutoPruner",
        "dcp": "autoprune.methods.dcp:DiscriminationAwarePruning",
        "sss": "autoprune.methods.sss:SparseStructureSelection",
        "ista": "autoprune.methods.ista:Ista",
        "gdp": "autoprune.methods.gdp:GlobalDynamicPruning",
        "lc": "autoprune.methods.lc:LearningCompression",
    },
    unlisted={"sparsify": "autoprune.methods.fine_grained:FineGrained"},
)


def find_method(wanted: Wanted, options: Mapping[str, Any]) -> TrainingMethod:
    """Return the method that is meant, made with its options.

    Args:
        wanted: the method.
        options: fields of its config.

    Raises:
        UsageError: there is no such method, or an option is unknown, of the wrong type or out of
            range.
    """
    from autoprune.methods.base import TrainingMethod

    made: TrainingMethod = KIND.make(wanted, TrainingMethod, **options)  # type: ignore[type-abstract]
    return made

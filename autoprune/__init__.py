"""Search how many channels each layer of a trained network keeps, under a budget, and cut it.

run = autoprune.search(model, data=splits, budget="flops=0.5")
small = autoprune.load_pruned(make_model(), run.path)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autoprune.errors import AutopruneError as AutopruneError
from autoprune.version import __version__ as __version__

if TYPE_CHECKING:
    from autoprune.api import Run as Run
    from autoprune.api import SweepRuns as SweepRuns
    from autoprune.api import apply_policy as apply_policy
    from autoprune.api import export as export
    from autoprune.api import finetune as finetune
    from autoprune.api import load_pruned as load_pruned
    from autoprune.api import report as report
    from autoprune.api import search as search
    from autoprune.api import sparsify as sparsify
    from autoprune.api import sweep as sweep
    from autoprune.api import train as train
    from autoprune.api import with_own_statistics as with_own_statistics

__all__ = [
    "AutopruneError",
    "Run",
    "SweepRuns",
    "__version__",
    "apply_policy",
    "export",
    "finetune",
    "load_pruned",
    "report",
    "search",
    "sparsify",
    "sweep",
    "train",
    "with_own_statistics",
]


def __getattr__(name: str) -> Any:
    # The functions bring PyTorch and Optuna along; `import autoprune` alone stays fast.
    if name in __all__:
        from autoprune import api

        return getattr(api, name)
    raise AttributeError(f"module 'autoprune' has no attribute {name!r}")

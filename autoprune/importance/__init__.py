"""Importance criteria, by name: which channels of a layer to keep.

Axes in signatures are those of `statistics`. The names below are imported once they are used; those
of the criteria (`registry`) are known without PyTorch.
"""

from typing import TYPE_CHECKING

from autoprune.core.lazy import names_from

if TYPE_CHECKING:
    from autoprune.importance.public import *  # noqa: F403, its `__all__` says which

__getattr__ = names_from(__name__, "public")

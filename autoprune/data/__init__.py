"""Data: its sources, its normalisation, and its partition into what each stage reads.

The names are imported once they are used; what `sources` knows of specs is read without PyTorch.
"""

from typing import TYPE_CHECKING

from autoprune.core.lazy import names_from

if TYPE_CHECKING:
    from autoprune.data.public import *  # noqa: F403, its `__all__` says which

__getattr__ = names_from(__name__, "public")

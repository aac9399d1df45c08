"""Checks the signatures of some packages at every call, shapes included.

Imported before any of them. An option of pytest would not do: the workers of pytest-xdist read the
conftest files, but not the options of the command line, before the first import. Functions inside
functions are wrapped at every call of the outer one, which takes milliseconds: in what runs often,
a method or a `partial` does better.
"""

from __future__ import annotations

import random

from jaxtyping import install_import_hook

PACKAGES = tuple(
    f"autoprune.{name}" for name in ("statistics", "reconstruction", "importance", "recovery")
)

# Which item of a container is looked at is drawn. beartype takes the function when it is imported:
# it gets that of a generator of its own, so that the global one is left alone.
_drawn, random.getrandbits = random.getrandbits, random.Random(0).getrandbits
import beartype  # noqa: E402, F401

random.getrandbits = _drawn

# An integer will do for a float, as it does for mypy.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"

install_import_hook(PACKAGES, CHECKER)

"""Checks the signatures of some packages at every call, shapes included.

Imported before any of them. An option of pytest would not do: the workers of pytest-xdist read the
conftest files, but not the options of the command line, before the first import. Functions inside
functions are wrapped at every call of the outer one, which takes milliseconds: in what runs often,
a method or a `partial` does better.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from inspect import isfunction
from typing import Any

import jaxtyping

PACKAGES = tuple(
    f"autoprune.{name}"
    for name in ("statistics", "reconstruction", "importance", "recovery", "search_spaces")
)
# A signature of these alone has no shapes: checking it is left to mypy, for such functions are
# called a million times.
PLAIN = re.compile(r"(\b(int|float|bool|str|None|Widths)\b|[\[\]|, .])*")

# Which item of a container is looked at is drawn. beartype takes the function when it is imported:
# it gets that of a generator of its own, so that the global one is left alone.
_drawn, random.getrandbits = random.getrandbits, random.Random(0).getrandbits
import beartype  # noqa: E402, F401

random.getrandbits = _drawn

# An integer will do for a float, as it does for mypy.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"

_jaxtyped = jaxtyping.jaxtyped


def jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    """Return the decorator that the import hook puts on every function and class."""

    def decorate(checked: Any) -> Any:
        if isfunction(checked) and PLAIN.fullmatch(" ".join(checked.__annotations__.values())):
            return checked
        return _jaxtyped(checked, typechecker=typechecker)

    return decorate


jaxtyping.jaxtyped = jaxtyped
jaxtyping.install_import_hook(PACKAGES, CHECKER)

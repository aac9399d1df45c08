"""Everything that a user can get wrong, as one exception tree.

AutopruneError
├── UsageError         an option, name or file that cannot be meant
│   ├── BudgetError    a budget that is malformed or cannot be reached
│   ├── RunError       a run directory that is taken, missing or damaged
│   └── TableError     a latency table that is damaged, or of other layers or conditions
├── RewardError        a reward that raises, or gives no finite number
├── EvaluateError      the user's own score of a network that raises, or is no number
├── MeasuringError     a device or a clock that fails while latency is measured
├── ModelError         a network that cannot be loaded, run, traced or pruned
└── DataError          images or labels that do not fit the network

The command line prints the message of any of these on one line and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AutopruneError(Exception):
    """Base of every error whose message is written for the user."""


class UsageError(AutopruneError, ValueError):
    """An option, a name or a file that cannot be meant."""


class BudgetError(UsageError):
    """A budget that is malformed or out of reach."""


class RunError(UsageError):
    """A run directory that is taken, missing or damaged."""


class TableError(UsageError):
    """A latency table that is damaged, or of other layers or conditions."""


class MeasuringError(AutopruneError):
    """A device or a clock that fails while latency is measured."""


class RewardError(AutopruneError):
    """A reward that raises, or gives no finite number."""


class EvaluateError(AutopruneError):
    """The user's own score of a network that raises, or is no number."""


class ModelError(AutopruneError):
    """A network that cannot be loaded, run, traced or pruned."""


class DataError(AutopruneError):
    """Images or labels that do not fit the network."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the clause that ends an "unknown name" message.

    The nearest known name if one is near, else all of them.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose one of: {', '.join(names)}."


def type_of(value: object) -> str:
    """Return a value's type with its article: "an int"."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text (its type's name if it has none)."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

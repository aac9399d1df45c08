"""Everything that a user can get wrong, as one exception tree.

AutopruneError
├── UsageError         an option, name or file that cannot be meant
│   ├── BudgetError    a budget that is malformed or cannot be reached
│   ├── RunError       a run directory that is taken, missing or damaged
│   └── TableError     a latency table that is damaged, or of other layers or conditions
├── RewardError        a reward that raises, or gives no finite number
├── StrategyError      a custom strategy that raises, or proposes what is not allowed
├── EvaluateError      the user's own score of a network that raises, or is not a number
├── MeasuringError     a device or a clock that fails while latency is measured
├── WorkerError        processes elsewhere that died at some work, one after the other
├── ModelError         a network that cannot be loaded, run, traced or pruned
└── DataError          images or labels that do not fit the network

The command line prints the message of any of these on one line and exits with status 2. Beside them
stands Interrupted, a KeyboardInterrupt that says how to go on; its exit status is 130.
"""

from __future__ import annotations

import difflib
import json
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

# Characters of a message. What it quotes (a name, a value, a path) may be of any length.
LONGEST_MESSAGE = 480
LONGEST_REASON = 200


class AutopruneError(Exception):
    """Base of every error whose message is written for the user: one line that can be shown."""

    def __str__(self) -> str:
        """Return the message without control characters, and without its middle if it is long."""
        return printable(super().__str__(), LONGEST_MESSAGE)


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


class WorkerError(AutopruneError):
    """Processes elsewhere that died at some work, one after the other."""


class RewardError(AutopruneError):
    """A reward that raises, or gives no finite number."""


class StrategyError(AutopruneError):
    """A custom strategy that raises, or proposes what is not allowed."""


class EvaluateError(AutopruneError):
    """The user's own score of a network that raises, or is not a number."""


class ModelError(AutopruneError):
    """A network that cannot be loaded, run, traced or pruned."""


class DataError(AutopruneError):
    """Images or labels that do not fit the network."""


class Interrupted(KeyboardInterrupt):
    """Long work that the user interrupted; the message is one line that says how to go on."""


Spelling: TypeAlias = "Callable[[str, Any], str]"
"""(option, value or None) → how a user writes it."""


def in_python(option: str, value: Any = None) -> str:
    """Return an option as Python's callers write it: "max_drop", or "max_drop=1" with a value."""
    return option if value is None else f"{option}={value!r}"


_SPELLING: ContextVar[Spelling] = ContextVar("spelling", default=in_python)


@contextmanager
def spelling(spelling: Spelling) -> Iterator[None]:
    """Let all messages inside name options as somebody writes them who is not in Python."""
    token = _SPELLING.set(spelling)
    try:
        yield
    finally:
        _SPELLING.reset(token)


def spelt(option: str, value: Any = None) -> str:
    """Return an option as the reader of the message writes it: "max_drop=1" or "--max-drop 1".

    Args:
        option: its name in Python.
        value: that is advised; None names the option alone.
    """
    return _SPELLING.get()(option, value)


def did_you_mean(name: str, known: Iterable[str], forms: Sequence[str] = ()) -> str:
    """Return the clause that ends an "unknown name" message.

    Args:
        name: the unknown one.
        known: names; the nearest one, in whatever case, is suggested if one is near, else all are.
        forms: what else may be written, such as "path/to/file.py:NAME"; named last.
    """
    choices = [*sorted(known), *forms]
    folded = {one.casefold(): one for one in choices}
    close = difflib.get_close_matches(name[:LONGEST_REASON].casefold(), folded, n=1, cutoff=0.5)
    if close:
        return f"did you mean {folded[close[0]]!r}?"
    return f"choose one of: {', '.join(choices)}."


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return the first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def counted(number: float, noun: str) -> str:
    """Return a number with its noun: "1 trial", "2 trials"."""
    return f"{number:.12g} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def type_of(value: object) -> str:
    """Return a value's type with its article: "an int"; "None" of that."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, cut if it is long; its type if it has no text."""
    file = error.filename if isinstance(error, OSError) else None
    return printable(file_fault(error) + ("" if file is None else f": {file!r}"), LONGEST_REASON)


def file_fault(error: BaseException) -> str:
    """Return `first_line` in plain words, without the file, which the message names already."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    if isinstance(error, json.JSONDecodeError):
        return f"it is not JSON (line {error.lineno}, column {error.colno})"
    if isinstance(error, UnicodeDecodeError):
        return "it is not text"
    lines = text_of(error).strip().splitlines()
    return printable(lines[0], LONGEST_REASON) if lines else type(error).__name__


def describe(error: BaseException) -> str:
    """Return an error's type and the first line of its text: "KeyError: 'top5'".

    Where memory ran out, that comes first: PyTorch's text is about its allocator.
    """
    told = f"{type(error).__name__}: {first_line(error)}"
    return f"out of memory ({told})" if ran_out_of_memory(error) else told


def ran_out_of_memory(error: BaseException) -> bool:
    """Say whether more memory was asked for than there is, on whatever device."""
    if not isinstance(error, RuntimeError):
        return isinstance(error, MemoryError)
    # PyTorch has a type of error for the memory of devices, but not all of them raise it.
    text = text_of(error)
    is_cpus = "allocate" in text and "memory" in text
    return is_cpus or "out of memory" in text or "ALLOC_FAILED" in text


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it, each once: a chain may run in a circle."""
    seen: list[BaseException] = []
    while error is not None and all(error is not one for one in seen):
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def text_of(error: BaseException) -> str:
    """Return an error's text, empty if its `__str__` fails."""
    return _converted(str, error)


_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = 120


def shown(value: object) -> str:
    """Return a value's `repr`, cut if it is long; its type if `__repr__` fails."""
    return printable(_converted(_brief.repr, value), LONGEST_REASON) or type_of(value)


def printable(text: str, most: int) -> str:
    """Return a text for a terminal: no control characters, and its middle left out if it is long.

    How a message begins says what is wrong, how it ends what to do.
    """
    line = "".join(c if c.isprintable() else " " for c in text)
    if len(line) <= most:
        return line
    return f"{line[: 2 * most // 3 - 2]} … {line[-(most // 3) + 1 :]}"


def _converted(convert: Callable[[Any], str], value: object) -> str:
    """Return a text of an object that may be the user's, in characters that any file takes."""
    try:
        text = convert(value)
    except KeyboardInterrupt:
        raise
    except BaseException:  # `user_code` would ask the new error for its text, which may fail, too
        return ""
    return text.encode(errors="backslashreplace").decode()


@contextmanager
def user_code(
    fault: Callable[[str], AutopruneError], passes: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Call code that is the user's: whatever it raises becomes one of our errors.

    `sys.exit` is a failure like any other, or a command would end with nothing done and status 0.
    Only Ctrl-C passes.

    Args:
        fault: what went wrong, in one line ("KeyError: 'top5'") → the error.
        passes: errors that are left as they are.
    """
    left_alone: tuple[type[BaseException], ...] = (KeyboardInterrupt, *passes)
    try:
        yield
    except left_alone:
        raise
    except BaseException as error:
        raise fault(describe(error)) from error

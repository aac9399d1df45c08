"""Records that files hold: each field says once, by its type, what may stand there.

Files may come from anybody. `read` checks data of JSON or TOML by the types of a record and returns
the record; `plain` is its inverse. A type that msgspec lacks is a class with a `_read` of its own.
"""

from __future__ import annotations

import re
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    overload,
)

import msgspec
from msgspec import Meta

from autoprune.errors import LONGEST_MESSAGE, printable, shown

Value = TypeVar("Value")

LONGEST_TEXT = 300
# Names of modules and tensors.
LONGEST_NAME = 1000
# Channels, features or pixels along one dimension. Curves are written out over all lengths.
WIDEST = 2_000_000
# Of anything measured, in whatever unit: products of a few such numbers are finite and not zero.
LEAST, MOST = 1e-12, 1e12
# Of any number that is only shown or compared.
HUGE = 1e300

Whole: TypeAlias = Annotated[int, Meta(ge=-int(MOST), le=int(MOST))]
"""A whole number of either sign."""
Natural: TypeAlias = Annotated[int, Meta(ge=0, le=int(MOST))]
"""A whole number of 0 or more."""
Extent: TypeAlias = Annotated[int, Meta(ge=1, le=WIDEST)]
"""A length of a dimension."""
Width: TypeAlias = Annotated[int, Meta(ge=0, le=WIDEST)]
"""The units that a group keeps: none where its branch is gone."""
Measured: TypeAlias = Annotated[float, Meta(ge=0, le=MOST)]
"""A measured number of 0 or more."""
AboveZero: TypeAlias = Annotated[float, Meta(ge=LEAST, le=MOST)]
"""A measured number by which others can be divided."""
Finite: TypeAlias = Annotated[float, Meta(ge=-HUGE, le=HUGE)]
"""A number of either sign."""
Quantity: TypeAlias = Annotated[float, Meta(ge=0, le=HUGE)]
"""A number of 0 or more that may be huge: MACs, bytes."""
Real: TypeAlias = float
"""A number that need not be finite: a score that overflowed."""
Name: TypeAlias = Annotated[str, Meta(max_length=LONGEST_NAME)]
"""The name of a tensor or module, which may hold any characters."""

if TYPE_CHECKING:
    Text: TypeAlias = str
    Message: TypeAlias = str
    Choice: TypeAlias = Annotated[Value, "a Literal of texts"]
    Table: TypeAlias = dict[str, Value]
    Stated: TypeAlias = Annotated[Value, "a record"]
else:
    # Types that msgspec knows nothing of: it leaves their values to `_read`.

    class _Marker(type):
        def __instancecheck__(cls, value: Any) -> bool:
            return True  # msgspec asks this of what `_read` returned

    class Text(metaclass=_Marker):
        """A text that can be shown."""

        @staticmethod
        def _read(data: Any) -> str:
            if not isinstance(data, str) or len(data) > LONGEST_TEXT or not data.isprintable():
                raise ValueError(f"{shown(data)} is not a short text")
            return data

    class Message(metaclass=_Marker):
        """A text of any length, shortened to what can be shown."""

        @staticmethod
        def _read(data: Any) -> str:
            return printable(read(data, str), LONGEST_MESSAGE)

    class Choice(Generic[Value], metaclass=_Marker):
        """One of the texts of a Literal."""

        @staticmethod
        def _read(data: Any, choices: Any) -> str:
            if not isinstance(data, str) or data not in get_args(choices):
                raise ValueError(f"{shown(data)} is none of {', '.join(get_args(choices))}")
            return data

    class Table(Generic[Value], metaclass=_Marker):
        """An object of any names, with such a value under each."""

        @staticmethod
        def _read(data: Any, kind: Any) -> dict[str, Any]:
            found = {}
            for key, value in read(data, dict).items():
                read(key, Name)
                try:
                    found[key] = read(value, kind)
                except ValueError as error:
                    name = key if key.isidentifier() else shown(key)
                    raise ValueError(f"{name}: {error}") from error
            return found

    class Stated(Generic[Value], metaclass=_Marker):
        """A record whose fields are all there, even those with defaults."""

        @staticmethod
        def _read(data: Any, kind: Any) -> Any:
            expected = {field.encode_name for field in msgspec.structs.fields(kind)}
            if isinstance(data, dict) and (missing := expected - data.keys()):
                raise ValueError(f"{shown(min(missing))} is missing")
            return read(data, kind)


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an object in a file holds: these fields and no others."""


@overload
def read(data: Any, kind: type[Value]) -> Value: ...
@overload
def read(data: Any, kind: Any) -> Any: ...
def read(data: Any, kind: Any) -> Any:
    """Return what JSON data mean as a value of a type, mostly a `Record`; the inverse of `plain`.

    Raises:
        ValueError: something is missing, unknown, of another type or out of range.
    """
    try:
        return msgspec.convert(data, kind, dec_hook=_read_marked)
    except msgspec.ValidationError as error:
        raise ValueError(_told(error, data)) from error
    except UnicodeEncodeError as error:  # half a character, where a number or a field is expected
        raise ValueError(f"{shown(error.object)} is not a valid text") from error


def plain(value: Any) -> Any:
    """Return a record, or anything that holds records, as JSON data."""
    return msgspec.to_builtins(value)


def _read_marked(kind: Any, data: Any) -> Any:
    return (get_origin(kind) or kind)._read(data, *get_args(kind))


# msgspec's words for what it expects, and ours.
_WORDS = {
    r"Expected ": "",
    r", got .*": "",
    r"`": "",
    r"\.0\b": "",
    r" of length <= (\d+)": r" of at most \1 characters",
    r">=": "of at least",
    r"<=": "of at most",
    r"Number out of range": "a number in range",
    r"\barray\b": "a list",
    r"\bfloat\b": "a number",
    r"\bint\b": "a whole number",
    r"\bobject\b": "an object",
    r"\bstr\b": "a text",
    r" \| ": " or ",
}
_FAULT = re.compile(
    r"(?:Object (?P<how>missing|contains) .*? field `(?P<field>.*?)`|(?P<fault>.*?))"
    r"(?: - at `\$(?P<path>[^`]*)`)?",
    re.DOTALL,
)


def _told(error: msgspec.ValidationError, data: Any) -> str:
    """Return in one line where the first fault of the data is, and what is wrong with it."""
    own = "" if error.__cause__ is None else str(error.__cause__)  # of a marked type or a record
    found = _FAULT.fullmatch(str(error).removeprefix(own))
    assert found is not None
    path = (found["path"] or "").removeprefix(".")
    if found["field"] is not None:
        own = f"{shown(found['field'])} is {'missing' if found['how'] == 'missing' else 'unknown'}"
    return (f"{path}: " if path else "") + (own or _misfit(found["fault"], _at(data, path)))


def _at(data: Any, path: str) -> Any:
    for step in re.findall(r"\w+", path):
        data = data[step] if isinstance(data, dict) else data[int(step)]
    return data


def _misfit(fault: str, value: Any) -> str:
    for theirs, ours in _WORDS.items():
        fault = re.sub(theirs, ours, fault)
    return f"{shown(value)} is not {fault}"


def significant(number: float) -> float:
    """Return a measured number with the digits that are worth writing down."""
    return float(f"{number:.6g}")

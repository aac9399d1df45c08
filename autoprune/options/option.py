"""What an option is: declared once, as a field of a frozen dataclass.

The command line, TOML files, the rules of resuming, messages and docs/options.md all come from the
declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from enum import Enum
from typing import Any, TypeVar

from autoprune.errors import UsageError, shown, spelt

OptionsT = TypeVar("OptionsT")


class Panel(Enum):
    """The headings of the help, in their order."""

    COMPARED = "Which run, and what is compared"
    WRITTEN = "What is written"
    NETWORK = "Network and data"
    GOAL = "What is wanted"
    SEARCH = "How to search"
    REPAIR = "Which channels stay, and their repair"
    RESTRICTIONS = "What may be pruned"
    TRAINING = "How to train"
    LATENCY = "Latency"
    SAMPLES = "How many samples"
    MEASURING = "How to measure"
    RUN = "The run"
    OTHER = "Other options"


@dataclass(frozen=True)
class ValueKind:
    """The values that an option takes.

    Attributes:
        metavar: what stands for the value in the help.
        read: converts a plain value, as Python or a TOML file has it, into the one that is kept;
            raises TypeError, ValueError or OverflowError for anything else.
        wanted: what is taken, in words.
        parse: converts a text of the command line into a plain value; None for what only Python and
            TOML files can say.
        absolute: converts a value that depends on the current folder into one that does not.
        is_installed: of values that name code: whether a value is a name that comes with autoprune
            or an installed package. Any other is imported only with the user's consent if it stands
            in a file (engine/trust.py). None if values name no code.
        repeats: whether the command line takes the option several times.
        is_switch: whether the command line takes it without a value.
        is_two_way: whether `--no-…` turns the switch off.
        bare: the text that the command line's option stands for without one; None if it needs one.
    """

    metavar: str | None
    read: Callable[[Any], Any]
    wanted: str
    parse: Callable[[str], Any] | None = str
    absolute: Callable[[Any], Any] | None = None
    is_installed: Callable[[str], bool] | None = None
    repeats: bool = False
    is_switch: bool = False
    is_two_way: bool = False
    bare: str | None = None


@dataclass(frozen=True)
class Rule:
    """What must hold for a value that has the right type.

    Attributes:
        holds: whether it does.
        wanted: the rule in words, behind "must".
    """

    holds: Callable[[Any], bool]
    wanted: str


@dataclass(frozen=True)
class Option:
    """One option of the command line, of TOML files and of the Python functions.

    Attributes:
        kind: the values that it takes.
        help: what it does, in sentences.
        panel: the heading that it stands under in the help.
        is_basic: whether `--help` shows it, and not only `--help-all`.
        flag: its name on the command line; by default the field's, with dashes.
        rule: that values keep to.
        is_renewable: whether it may be given again when a run is resumed.
        recalled_with: options of the same word are taken over from an earlier run (`--from`) unless
            one of them is given; None is never taken over.
        is_in_files: whether TOML files may say it.
        is_positional: whether the command line takes it without its name.
        is_required: whether it must be given.
        name: the field's, which is the key in TOML files.
        default: the field's.
    """

    kind: ValueKind
    help: str
    panel: Panel = Panel.OTHER
    is_basic: bool = False
    flag: str | None = None
    rule: Rule | None = None
    is_renewable: bool = False
    recalled_with: str | None = None
    is_in_files: bool = True
    is_positional: bool = False
    is_required: bool = False
    name: str = ""
    default: Any = None

    @property
    def option_string(self) -> str:
        """What is typed on the command line, e.g. "--max-drop"."""
        return self.flag or f"--{self.name.replace('_', '-')}"

    @property
    def description(self) -> str:
        """The help, with the default unless that is nothing."""
        if isinstance(self.default, (bool, type(None), tuple, dict)) or "default" in self.help:
            return self.help
        return f"{self.help.removesuffix('.')} (default: {self.default})."

    def read(self, value: Any) -> Any:
        """Return the value that is kept of a plain one.

        Raises:
            UsageError: it has the wrong type, or cannot be meant.
        """
        return self._converted(self.kind.read, value, spelt(self.name))

    def parse(self, text: str) -> Any:
        """Return the plain value of a text on the command line.

        Raises:
            UsageError: it is of the wrong form.
        """
        assert self.kind.parse is not None
        return self._converted(self.kind.parse, text, self.option_string)

    def check(self, value: Any) -> None:
        """Refuse a value that is out of range.

        Raises:
            UsageError: it is.
        """
        if self.rule is not None and value is not None and not self.rule.holds(value):
            raise UsageError(f"{spelt(self.name)} must {self.rule.wanted}, but got {value}.")

    def _converted(self, convert: Callable[[Any], Any], value: Any, name: str) -> Any:
        try:
            return convert(value)
        except UsageError:
            raise
        except (TypeError, ValueError, OverflowError):
            raise UsageError(
                f"{name} must be {self.kind.wanted}, but got {shown(value)}."
            ) from None


def option(default: Any, kind: ValueKind, help: str, **flags: Any) -> Any:
    """Declare an option as a field of a frozen dataclass.

    Args:
        default: of the field; `MISSING` if there is none.
        kind: the values that it takes.
        help: what it does, in sentences.
        **flags: further fields of `Option`.
    """
    metadata = {"option": Option(kind, help, is_required=default is MISSING, **flags)}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def declared_in(declaration: type, name: str) -> Any:
    """Declare the option that another dataclass has, with its default and help."""
    (other,) = (one for one in fields(declaration) if one.name == name)
    return field(default=other.default, metadata=other.metadata)


def choices(names: Iterable[str], default: str | None = None) -> str:
    """Return the names that an option takes, for its help."""
    return ", ".join(f"{name} (default)" if name == default else name for name in names)


def options_of(*declarations: type) -> dict[str, Option]:
    """Return the options that dataclasses declare, by the names of their fields."""
    return {
        one.name: replace(one.metadata["option"], name=one.name, default=_default_of(one))
        for declaration in declarations
        for one in fields(declaration)
    }


def _default_of(declared: Field[Any]) -> Any:
    if declared.default_factory is not MISSING:
        return declared.default_factory()
    return None if declared.default is MISSING else declared.default


def read_options(declaration: type[OptionsT], given: Mapping[str, Any]) -> OptionsT:
    """Return the options of a command, those that were not given by their defaults.

    Args:
        declaration: a dataclass of options.
        given: plain values by name.

    Raises:
        UsageError: a value cannot be meant.
    """
    options = options_of(declaration)
    return declaration(**{name: options[name].read(value) for name, value in given.items()})

"""Options of strategies and stages: frozen dataclasses, checked wherever values come from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from autoprune.errors import AutopruneError, UsageError, did_you_mean, shown

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
Amount: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
Share: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]
BelowOne: TypeAlias = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Positive: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]

Config = TypeVar("Config")


@dataclass(frozen=True)
class NoOptions:
    """What a strategy without options is configured with."""


def configured(defaults: Config, options: Mapping[str, Any], owner: str) -> Config:
    """Return a frozen dataclass with some fields replaced, all of them checked by their types.

    Args:
        defaults: what applies where no option is given.
        options: by field, as Python or a TOML file has them: a list may stand for a tuple.
        owner: whose options they are, for messages ("the strategy 'ddpg'").

    Raises:
        UsageError: an option that there is not, of the wrong type, or out of range.
    """
    known = [field.name for field in fields(defaults)]  # type: ignore[arg-type]
    for name, value in options.items():
        if name not in known:
            hint = did_you_mean(name, known) if known else "it has none."
            raise UsageError(f"{owner} has no option {name!r}; {hint}")
        try:
            # One after the other, so that the message names the option.
            msgspec.convert({name: value}, type(defaults))
        except msgspec.ValidationError as error:
            if isinstance(error.__cause__, AutopruneError):  # of the dataclass itself
                raise error.__cause__ from None
            reason = str(error).partition(" - at ")[0].replace("Expected", "expected", 1)
            raise UsageError(f"{owner} cannot have {name}={shown(value)}: {reason}.") from None
    values = {name: getattr(defaults, name) for name in known}
    return msgspec.convert({**values, **options}, type(defaults))


def changes(config: Any, defaults: Any) -> dict[str, Any]:
    """Return the options that differ from the defaults, as a TOML file has them."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value != getattr(defaults, name)
    }


def stored(config: Any) -> dict[str, Any]:
    """Return all options as JSON has them; what it has no form for is left out."""
    found = {}
    for field in fields(config):
        with suppress(TypeError):
            found[field.name] = msgspec.to_builtins(getattr(config, field.name))
    return found

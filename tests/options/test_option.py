"""One declaration gives the command line, files, resume rules and messages."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

import autoprune
from autoprune.agents.registry import KIND, STRATEGIES
from autoprune.cost.registry import COSTS
from autoprune.data.sources import FORMS
from autoprune.errors import AutopruneError, UsageError
from autoprune.evaluation.reward import BUILT_IN, DEFAULT_REWARD
from autoprune.importance.registry import IMPORTANCES
from autoprune.models import MODEL_FORMS
from autoprune.options.commands import OF_COMMANDS, ProfileOptions
from autoprune.options.kinds import ABOVE_ZERO, PATTERNS, SWITCH, WHOLE
from autoprune.options.option import Option, choices, option, options_of, read_options
from autoprune.options.reference import OF_PYTHON, helps, page
from autoprune.options.search import OPTIONS, RENEWABLE, SearchConfig, SearchOptions
from autoprune.profiling.backends.registry import KIND as BACKENDS


@dataclass(frozen=True)
class Example:
    """Options of a test."""

    max_size: int = option(3, WHOLE, "The size.", rule=ABOVE_ZERO)
    names: tuple[str, ...] = option((), PATTERNS, "The names.")
    fast: bool = option(False, SWITCH, "Whether to hurry.")


def test_a_declaration_says_everything() -> None:
    size, names, fast = options_of(Example).values()
    assert (size.option_string, size.default) == ("--max-size", 3)
    assert [one.description for one in (size, names, fast)] == [
        "The size (default: 3).",
        "The names.",
        "Whether to hurry.",
    ]
    assert size.read(size.parse("7")) == 7 and names.read("a") == ("a",)


def test_mistakes_name_the_option_as_it_was_written() -> None:
    size = options_of(Example)["max_size"]
    with pytest.raises(UsageError, match=r"^--max-size must be a whole number, but got 'many'.$"):
        size.parse("many")
    with pytest.raises(UsageError, match=r"^max_size must be a whole number, but got 2.5.$"):
        size.read(2.5)
    with pytest.raises(UsageError, match=r"^max_size must be above zero, but got 0.$"):
        size.check(0)


def test_what_was_not_given_has_its_default() -> None:
    assert read_options(Example, {"names": ["a", "b"]}) == Example(3, ("a", "b"))
    assert read_options(ProfileOptions, {}).output == "latency.json"


def test_python_types_are_given_for_every_option() -> None:
    """Those that may also be functions `autoprune.search` names itself."""
    functions = {"reward", "evaluate", "distance"}
    typed = SearchOptions.__annotations__.keys()
    assert typed | functions == OPTIONS.keys()
    assert not typed & functions


def test_defaults_that_others_know_too() -> None:
    assert SearchConfig("flops=0.5").reward == DEFAULT_REWARD
    assert RENEWABLE == (
        *("storage", "trials", "time", "trial_timeout", "workers", "ray", "gpus_per_worker"),
        *("recover", "logger", "report"),
    )


@pytest.mark.parametrize("command", OF_COMMANDS)
def test_declared_values_can_be_read_back(command: str) -> None:
    """A default that its own reader refuses could not be repeated from config.toml."""
    for one in options_of(*OF_COMMANDS[command]).values():
        if one.default is not None:
            assert one.read(one.default) == one.default


@pytest.mark.parametrize("command", OF_COMMANDS)
def test_values_of_any_type_are_read_or_refused_in_one_line(command: str) -> None:
    """A file from anybody may say anything: of the wrong type, or a list of such."""
    single = (1, -1.5, None, True, "", "=", b"x", [], {})
    nested = (*([one] for one in single), *({"a": one} for one in single), {1: 2}, ["x", 1])
    for one in options_of(*OF_COMMANDS[command]).values():
        for value in (*single, *nested):
            try:
                one.read(value)
            except AutopruneError as error:
                assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "option_name", "names"),
    [
        ("search", "strategy", STRATEGIES),
        ("search", "importance", IMPORTANCES),
        ("search", "reward", tuple(BUILT_IN)),
        ("search", "budget", COSTS),
        ("search", "minimize", COSTS),
        ("search", "model", MODEL_FORMS),
        ("search", "data", tuple(FORMS)),
        ("profile", "backend", BACKENDS.names),
    ],
)
def test_the_help_names_what_comes_with_autoprune(
    command: str, option_name: str, names: tuple[str, ...]
) -> None:
    declared = options_of(*OF_COMMANDS[command])[option_name]
    for name in names:
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", declared.help), name
    for default in {declared.default} & {*names}:
        assert re.search(rf"\b{default} \((the )?default", declared.help)


def test_choices() -> None:
    assert choices(("a", "b")) == "a, b"
    assert choices(("a", "b"), default="b") == "a, b (default)"


def test_the_page_of_options_is_up_to_date(root: Path) -> None:
    """`python -m autoprune.options.reference > docs/options.md` writes it."""
    assert (root / "docs" / "options.md").read_text() == page()


@pytest.mark.parametrize("name", KIND.built_in)
def test_the_docstring_of_a_config_explains_every_option(name: str) -> None:
    config = KIND.load(name).config
    assert helps(type(config)).keys() >= {one.name for one in fields(config)}


def test_python_takes_the_options_that_the_page_does_not_exclude() -> None:
    function = inspect.signature(autoprune.search).parameters.keys()
    assert {*OF_PYTHON} - function == {*OPTIONS} - function
    assert not ({*options_of(*OF_COMMANDS["search"])} - {*OF_PYTHON}) & function


def test_an_option_without_a_metavar_is_a_switch_or_no_flag() -> None:
    declared: list[Option] = [o for d in OF_COMMANDS.values() for o in options_of(*d).values()]
    assert all(one.kind.metavar or one.kind.is_switch or one.kind.parse is None for one in declared)

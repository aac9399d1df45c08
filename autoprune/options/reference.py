"""The page docs/options.md, made of the declarations.

python -m autoprune.options.reference > docs/options.md
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from autoprune.agents.registry import KIND as STRATEGIES
from autoprune.core.lazy import imported
from autoprune.methods.registry import KIND as METHODS
from autoprune.options.commands import OF_COMMANDS
from autoprune.options.option import Option, Panel, options_of
from autoprune.options.search import OPTIONS, RENEWABLE, SearchConfig

INTRODUCTION = """# Options

Made of the declarations in `autoprune/options`, and of the registries of components that they
name, by `python -m autoprune.options.reference > docs/options.md`; a test says when to run it.

A TOML file (`autoprune search --config FILE`) takes the same names without the leading dashes, with
dashes or underscores; where the key differs, it is given in brackets. The command line wins over
the file. Python takes them with underscores: `autoprune.search(model, data=…, budget="flops=0.5")`.
What takes true or false is a switch on the command line: `--trust` alone is true, and where the
default is yes, `--no-report` is false. A table `[strategy.NAME]` names the strategy and holds the
options that it alone has ([all of them](#strategies-stages-and-methods)). `autoprune train --config
FILE` takes its own options in the same way, and `[method.NAME]`. The `config.toml` of a run is such
a file, and repeats the run.
"""
# Markdown's end of a cell, where it is none.
_BAR = "\\|"
OF_PYTHON = ("model", "data", "output", "resume", *OPTIONS)
"""Options of `autoprune search` that `autoprune.search` takes, too."""
TABLES = """
## Strategies, stages and methods

Tables stand in a TOML file; options of methods can also be given by `--method-option OPTION=VALUE`.
Python takes `strategy_config={"updates": 30}`, `engine={"rounds": {"most": 2}}` and
`method_config={"sparsity": 1e-4}`. A `Count` is a whole number from 1 on, `Natural` from 0 on; an
`Amount` is a number from 0 on, `Positive` is above 0, a `Share` is from 0 to 1, and `BelowOne` a
share below 1.
"""


def page() -> str:
    """Return the whole page, in Markdown."""
    commands = "".join(_command(name, one) for name, one in OF_COMMANDS.items())
    return INTRODUCTION + commands + TABLES + "".join(_tables())


def _tables() -> Iterator[str]:
    """Yield the options that strategies and stages have of their own."""
    configs = {f"strategy.{name}": STRATEGIES.load(name).config for name in STRATEGIES.built_in}
    stages = vars(imported("autoprune.engine.limits:StageLimits")())
    limits = {f"engine.{name}": own for name, own in stages.items()}
    methods = {f"method.{name}": METHODS.load(name).config for name in METHODS.built_in}
    for name, config in {**configs, **limits, **methods}.items():
        rows = [
            _row(
                f"`{one.name}`",
                f"`{one.type}`",
                f"`{getattr(config, one.name)!r}`",
                helps(type(config))[one.name],
            )
            for one in fields(config)
        ]
        heading = f"\n### [{name}]\n\n| option | type | default | what it is |\n|---|---|---|---|\n"
        yield heading + "\n".join(rows) + "\n" if rows else ""


def helps(config: type[Any]) -> dict[str, str]:
    """Return what the docstrings of a dataclass and its bases say of each field."""
    found = {}
    for one in reversed(config.__mro__):
        _, _, attributes = inspect.cleandoc(one.__doc__ or "").partition("Attributes:")
        for entry in re.split(r"\n {4}(?=\w)", attributes)[1:]:
            name, _, text = entry.partition(": ")
            found[name] = " ".join(text.split())
    return found


def _command(name: str, declarations: Sequence[type]) -> str:
    options = options_of(*declarations).values()
    tables = "".join(_panel(panel, [o for o in options if o.panel is panel]) for panel in Panel)
    flags = ", ".join(f"`{OPTIONS[one].option_string}`" for one in RENEWABLE)
    shell = ", ".join(f"`{o.option_string}`" for o in options if o.name not in OF_PYTHON)
    resume = (
        f"\nA resumed search takes {flags} again; all else stays. Python has no {shell}: model and "
        "data are objects there, and the network stays on its device.\n"
    )
    return f"\n## autoprune {name}\n{resume if SearchConfig in declarations else ''}{tables}"


def _panel(panel: Panel, options: Sequence[Option]) -> str:
    rows = "\n".join(_rows(options))
    heading = f"\n### {panel.value}\n\n| option | takes | what it does |\n|---|---|---|\n"
    return f"{heading}{rows}\n" if options else ""


def _rows(options: Sequence[Option]) -> Iterator[str]:
    for one in options:
        names = f"`{one.kind.metavar if one.is_positional else one.option_string}`"
        if one.kind.parse is None:
            names = f"`{one.name}`, not on the command line"
        elif one.is_in_files and one.flag is not None:
            names += f" (`{one.name}`)"
        takes = f"`{one.kind.metavar}`: {one.kind.wanted}" if one.kind.metavar else one.kind.wanted
        yield _row(names, takes, one.description)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', _BAR) for cell in cells)} |"


if __name__ == "__main__":
    print(page(), end="")

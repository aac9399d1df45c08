"""The page docs/options.md, made of the declarations.

python -m autoprune.options.reference > docs/options.md
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from autoprune.options.commands import OF_COMMANDS
from autoprune.options.option import Option, Panel, options_of
from autoprune.options.search import RENEWABLE, SearchConfig

INTRODUCTION = """# Options

Made of the declarations in `autoprune/options`, and of the registries of components that they
name, by `python -m autoprune.options.reference > docs/options.md`; a test says when to run it.

A TOML file (`autoprune search --config FILE`) takes the same names without the leading dashes, with
dashes or underscores; where the key differs, it is given in brackets. The command line wins over
the file. Python takes them with underscores: `autoprune.search(model, data=…, budget="flops=0.5")`.
A table `[strategy.NAME]` names the strategy and holds the options that it alone has. The
`config.toml` of a run is such a file, and repeats the run.
"""


def page() -> str:
    """Return the whole page, in Markdown."""
    return INTRODUCTION + "".join(_command(name, one) for name, one in OF_COMMANDS.items())


def _command(name: str, declarations: Sequence[type]) -> str:
    options = options_of(*declarations).values()
    tables = "".join(_panel(panel, [o for o in options if o.panel is panel]) for panel in Panel)
    flags = ", ".join(f"`--{one}`" for one in RENEWABLE)
    resume = f"\nA resumed search takes {flags} again; all else stays.\n"
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
        cells = (cell.replace("|", "\\|") for cell in (names, takes, one.description))
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(page(), end="")

"""Commands made of declared options: Click splits the command line, the declarations read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource, augment_usage_errors

from autoprune.errors import did_you_mean
from autoprune.options.option import Option, Panel, options_of

# Characters of the help's first column; longer names stand on a line of their own.
NAMES_WIDTH = 24


class Command(click.Command):
    """A command with declared options, which its help shows under their panels."""

    def __init__(
        self,
        run: Callable[[Mapping[str, Any]], None],
        declarations: Sequence[type],
        is_brief: bool = False,
    ) -> None:
        """Make the command of that function's name and docstring.

        Args:
            run: does the command, told the plain values of the options that the user gave.
            declarations: dataclasses of options.
            is_brief: whether `--help` shows the basic options alone, and `--help-all` all.
        """
        declared = options_of(*declarations).items()
        self.options = {name: one for name, one in declared if one.kind.parse is not None}
        self.is_brief = is_brief
        super().__init__(
            run.__name__,
            params=[_parameter(one) for one in self.options.values()],
            callback=lambda **values: run(self._given(values)),
            help=run.__doc__,
            short_help=" ".join((run.__doc__ or "").partition("\n\n")[0].split()),
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        if is_brief:
            self.params.append(
                click.Option(["--help-all"], is_flag=True, is_eager=True, callback=_help_all)
            )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split the words; an error names this command, which the parser itself may not."""
        with augment_usage_errors(ctx):
            return super().parse_args(ctx, args)

    def _given(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the plain values of what stands on the command line."""
        context = click.get_current_context()
        return {
            name: _plain(self.options[name], value)
            for name, value in values.items()
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        }

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, panel by panel."""
        shown = [one for one in self.options.values() if one.is_basic or not self._hides(ctx)]
        for panel in Panel:
            rows = [(_names(one), one.description) for one in shown if one.panel is panel]
            if panel is Panel.OTHER:
                rows.append(("-h, --help", "Show this message and exit."))
                if self.is_brief:
                    rows.append(("--help-all", "Show all options."))
            if rows:
                with formatter.section(panel.value):
                    padded = [(names.ljust(NAMES_WIDTH), text) for names, text in rows]
                    formatter.write_dl(padded, col_max=NAMES_WIDTH)

    def _hides(self, context: click.Context) -> bool:
        return self.is_brief and not context.params.get("help_all")


class Commands(click.Group):
    """Commands by name; a mistyped name gets the nearest one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is meant, and its arguments."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise click.UsageError(
                f"No such command {args[0]!r}; {did_you_mean(args[0], self.commands)}", ctx
            )
        return super().resolve_command(ctx, args)


def _help_all(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        context.params["help_all"] = True
        click.echo(context.get_help())
        context.exit()


def _parameter(declared: Option) -> click.Parameter:
    if declared.is_positional:
        return click.Argument(
            [declared.name],
            metavar=declared.kind.metavar,
            nargs=-1 if declared.kind.repeats else 1,
            required=declared.is_required,
        )
    words = declared.option_string
    if declared.kind.is_two_way:
        words = f"{words}/--no-{words[2:]}"
    bare: dict[str, Any] = {} if declared.kind.bare is None else {"flag_value": declared.kind.bare}
    return click.Option(
        [words, declared.name],
        is_flag=declared.kind.is_switch,
        **bare,
        multiple=declared.kind.repeats,
        default=None,
    )


def _names(declared: Option) -> str:
    if declared.is_positional:
        return declared.kind.metavar or ""
    words = declared.option_string
    if declared.kind.is_two_way:
        return f"--[no-]{words[2:]}"
    return f"{words} {declared.kind.metavar}" if declared.kind.metavar else words


def _plain(declared: Option, value: Any) -> Any:
    if declared.kind.is_switch:
        return value
    return [*map(declared.parse, value)] if declared.kind.repeats else declared.parse(value)

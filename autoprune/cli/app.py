"""The `autoprune` command: its sub-commands, and what becomes of errors.

Nothing heavy is imported here: every command imports what it needs when it runs.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import click

from autoprune.cli.command import Command, Commands
from autoprune.cli.compare import compare
from autoprune.cli.dashboard import dashboard
from autoprune.cli.evaluate import evaluate
from autoprune.cli.explain import explain
from autoprune.cli.export import export
from autoprune.cli.finetune import finetune
from autoprune.cli.inspect import inspect
from autoprune.cli.profile import profile
from autoprune.cli.push import push
from autoprune.cli.report import report
from autoprune.cli.search import search
from autoprune.cli.sparsify import sparsify
from autoprune.cli.status import status
from autoprune.cli.train import train
from autoprune.errors import (
    LONGEST_MESSAGE,
    AutopruneError,
    Interrupted,
    chain,
    describe,
    file_fault,
    printable,
    spelling,
    text_of,
)
from autoprune.options.commands import OF_COMMANDS, on_command_line
from autoprune.version import __version__

DONE, BROKEN_PIPE, MISTAKE, INTERRUPTED = 0, 1, 2, 130

# What SQLite and safetensors say where Python would raise OSError(ENOSPC).
_DISK_FULL = ("No space left on device", "database or disk is full")

_COMMANDS = (
    Command(search, OF_COMMANDS["search"], is_brief=True),
    *(
        Command(one, OF_COMMANDS[one.__name__])
        for one in (
            *(inspect, profile, evaluate, train, sparsify, finetune, export),
            *(report, compare, explain, status, dashboard, push),
        )
    ),
)


@click.group(
    cls=Commands,
    commands=_COMMANDS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def autoprune(context: click.Context) -> None:
    """Search how many channels each layer of a trained network keeps, and cut it for real."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    A user's mistake becomes one line on standard error; a bug keeps its traceback.

    Args:
        arguments: after the program's name; those of the process by default.

    Returns:
        Exit status: 0 done, 2 wrong usage or impossible request, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with spelling(on_command_line), autoprune.make_context("autoprune", words) as context:
            autoprune.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except Interrupted as stop:
        return _say(str(stop), INTERRUPTED)
    except KeyboardInterrupt:
        return _say("Interrupted.", INTERRUPTED)
    except BrokenPipeError:
        return _reader_left()
    except SystemExit as error:
        # autoprune itself never raises it: this must not pass for success.
        return _say(f"Error: code of yours ended the command: {describe(error)}", MISTAKE)
    except Exception as error:
        reason = _mistake(error)
        if reason is None:
            raise
        return _say(f"Error: {reason}", MISTAKE)
    return DONE


def _reader_left() -> int:
    """The reader (`| head`) has seen enough: Python's own flush at exit must not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def _mistake(error: Exception) -> str | None:
    """Return what the user can mend; None if the error is a bug of autoprune."""
    if any(_is_disk_full(cause) for cause in chain(error)):
        return "the disk is full; free some space, or choose another --output."
    if isinstance(error, AutopruneError):
        return str(error)
    if isinstance(error, click.UsageError):
        text = printable(error.format_message(), LONGEST_MESSAGE)
        command = "autoprune" if error.ctx is None else error.ctx.command_path
        return f"{text} (See {command} --help.)"
    if isinstance(error, OSError) and error.filename is not None:
        return printable(f"{error.filename!r}: {file_fault(error)}.", LONGEST_MESSAGE)
    return None


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return True
    return any(phrase in text_of(error) for phrase in _DISK_FULL)


def _say(text: str, status: int) -> int:
    print(" ".join(text.split()), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

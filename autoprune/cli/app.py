"""The `autoprune` command: its sub-commands, and what becomes of errors.

Nothing heavy is imported here: every command imports what it needs when it runs.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from autoprune.cli.evaluate import evaluate
from autoprune.cli.inspect import inspect
from autoprune.cli.profile import profile
from autoprune.cli.search import Interrupted, search
from autoprune.errors import LONGEST_MESSAGE, AutopruneError, describe, printable, text_of
from autoprune.version import __version__

DONE, BROKEN_PIPE, MISTAKE, INTERRUPTED = 0, 1, 2, 130

# What SQLite and safetensors say where Python would raise OSError(ENOSPC).
_DISK_FULL = ("No space left on device", "database or disk is full")

# Typer's usage errors (BadParameter, "no such option", …) all derive from this class, whose home
# differs between versions.
_COMMAND_LINE_ERROR = typer.BadParameter.__mro__[1]


def _unwrapped(text: str) -> str:
    """Return a docstring with one line per paragraph: the terminal wraps it."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
)
for command in (search, inspect, profile, evaluate):
    app.command(help=_unwrapped(command.__doc__ or ""))(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"autoprune {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def autoprune(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Search how many channels each layer of a trained network keeps, and cut it for real."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    A user's mistake becomes one line on standard error; a bug keeps its traceback.

    Args:
        arguments: after the program's name; those of the process by default.

    Returns:
        Exit status: 0 done, 2 wrong usage or impossible request, 130 interrupted.
    """
    run = typer.main.get_command(app)
    try:
        status = run.main(arguments, prog_name="autoprune", standalone_mode=False)
    except Interrupted as stop:
        return _say(str(stop), INTERRUPTED)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except SystemExit as error:
        if any(isinstance(cause, BrokenPipeError) for cause in _chain(error)):
            return _reader_left()  # Click turns the pipe's error into an exit
        # Nothing of ours raises it: this must not pass for success.
        return _say(f"Error: code of yours ended the command: {describe(error)}", MISTAKE)
    except Exception as error:
        reason = _mistake(error)
        if reason is None:
            raise
        return _say(f"Error: {reason}", MISTAKE)
    return _say("Interrupted.", INTERRUPTED) if status == INTERRUPTED else status or DONE


def _reader_left() -> int:
    """The reader (`| head`) has seen enough: Python's own flush at exit must not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def _mistake(error: Exception) -> str | None:
    """Return what the user can mend; None if the error is a bug of ours."""
    if any(_is_disk_full(cause) for cause in _chain(error)):
        return "the disk is full; free some space, or choose another --output."
    if isinstance(error, AutopruneError):
        return str(error)
    if isinstance(error, _COMMAND_LINE_ERROR):
        text = printable(getattr(error, "format_message", error.__str__)(), LONGEST_MESSAGE)
        return f"{text} (See autoprune --help.)"
    if isinstance(error, OSError) and error.filename is not None:
        return printable(f"{error.filename!r}: {error.strerror}.", LONGEST_MESSAGE)
    return None


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return True
    return any(phrase in text_of(error) for phrase in _DISK_FULL)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _say(text: str, status: int) -> int:
    print(" ".join(text.split()), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

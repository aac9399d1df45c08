"""Optuna's dashboard on a copy of a run's study."""

from __future__ import annotations

import socket
from collections.abc import Callable

import optuna

from autoprune.errors import UsageError, file_fault, spelt
from autoprune.study.ledger import copy_study
from autoprune.study.run_directory import RunDirectory

HOST = "localhost"


def memory_copy(run: RunDirectory) -> optuna.storages.InMemoryStorage:
    """Return the trials of a run, each of them checked, and what its study says, in memory.

    Notes and files that others may have put into the study for the dashboard are left out.

    Raises:
        RunError: there is no study, or it is damaged.
    """
    storage = optuna.storages.InMemoryStorage()
    with run.stored_study() as study:
        copy_study(study, storage)
    return storage


def serve(run: RunDirectory, port: int, tell: Callable[[str], None]) -> None:
    """Show the trials of a run to browsers on this machine, until a keyboard interrupt.

    Args:
        run: the run directory.
        port: that the dashboard listens to.
        tell: told where it is.

    Raises:
        RunError: there is no run, no study in it, or it is damaged.
        UsageError: the dashboard is not installed, or the port is in use.
    """
    try:
        from optuna_dashboard import run_server
    except ImportError as error:
        raise UsageError(
            "the dashboard is not installed: pip install 'autoprune[dashboard]' brings it."
        ) from error
    run.load_config()
    storage = memory_copy(run)
    _check_port(port)
    tell(f"http://{HOST}:{port}/ shows the trials of {run.path} as they are now; Ctrl-C ends it")
    try:
        run_server(storage, host=HOST, port=port)
    except KeyboardInterrupt:
        return


def _check_port(port: int) -> None:
    if not 0 < port < 2**16:
        raise UsageError(f"{spelt('port')} must be from 1 to 65535, but got {port}.")
    try:
        with socket.create_server((HOST, port)):
            return
    except OSError as error:
        reason = file_fault(error)
        raise UsageError(
            f"{spelt('port')} {port} cannot be listened to: {reason}; choose another."
        ) from error

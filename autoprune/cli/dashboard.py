"""`autoprune dashboard`: Optuna's dashboard on the trials of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.options.commands import DashboardOptions
from autoprune.options.option import read_options


def dashboard(given: Mapping[str, Any]) -> None:
    """Show the trials of a run in Optuna's dashboard, until Ctrl-C.

    It shows a copy: nothing that is done there changes the run, which may be going on.
    """
    options = read_options(DashboardOptions, given)

    from autoprune.reporting.dashboard import serve
    from autoprune.study.run_directory import RunDirectory

    serve(RunDirectory(options.run), options.port, lambda line: print(line, flush=True))

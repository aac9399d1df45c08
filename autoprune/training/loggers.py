"""Where figures of a training or a search go: a JSON Lines file, and trackers by name."""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar, Protocol

from autoprune.core.files import write_whole
from autoprune.core.plugins import Kind
from autoprune.core.records import Table, read
from autoprune.core.untrusted import parse_json, read_text
from autoprune.errors import AutopruneError, UsageError, counted, describe, file_fault

log = logging.getLogger(__name__)

Row = Mapping[str, Any]
"""Figures of one validation: "step", "epoch", "train_loss", the validation's, "seconds"."""


class Logger(Protocol):
    """Receives the figures of a training or a search."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures after a number of steps, or of trials."""

    def close(self) -> None:
        """Finish."""


class Tracker:
    """What all trackers have in common: they are made with the folder of the run and its options.

    Attributes:
        folder: the run directory.
        config: plain options; "training" says which of the run's trainings it is, or that it is
            the search.
        package: that it needs.
    """

    package: ClassVar[str]

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder, self.config = folder, config

    @property
    def title(self) -> str:
        """The name of the training or search: those of a run share no curve."""
        return f"{self.folder.name}-{self.config['training']}"

    def close(self) -> None:
        """Finish."""


class TensorBoardLogger(Tracker):
    """Event files in `RUN/tensorboard`, in a folder for each training, and for the search."""

    package = "tensorboard"

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(folder, config)
        self._writer = SummaryWriter(str(folder / "tensorboard" / config["training"]))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Write every figure as a scalar."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        self._writer.close()


class MlflowLogger(Tracker):
    """A run of MLflow, wherever its settings say."""

    package = "mlflow"

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import mlflow

        super().__init__(folder, config)
        self._mlflow = mlflow
        mlflow.start_run(run_name=self.title)
        mlflow.log_params(dict(config))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the figures as metrics."""
        self._mlflow.log_metrics(dict(figures), step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


class _InitLogger(Tracker):
    """A run of a tracker with the interface of Weights & Biases."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        super().__init__(folder, config)
        self._tracker = importlib.import_module(self.package)
        self._tracker.init(project="autoprune", name=self.title, config=dict(config))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the figures."""
        self._tracker.log(dict(figures), step=step)

    def close(self) -> None:
        """End the run."""
        self._tracker.finish()


class WandbLogger(_InitLogger):
    """A run of Weights & Biases."""

    package = "wandb"


class TrackioLogger(_InitLogger):
    """A run of trackio, which keeps it on this machine."""

    package = "trackio"


KIND = Kind(
    "logger",
    "autoprune.loggers",
    {
        "tensorboard": TensorBoardLogger,
        "mlflow": MlflowLogger,
        "wandb": WandbLogger,
        "trackio": TrackioLogger,
    },
)


Factory = Callable[[Path, Mapping[str, Any]], Logger]
"""(run directory, plain options) → a tracker."""


def find_loggers(names: Sequence[str]) -> list[Factory]:
    """Return what makes the trackers of these names, as `KIND.load` takes them.

    Raises:
        UsageError: there is none of that name, or its package is not installed.
    """
    found = []
    for name in names:
        factory = KIND.load(name)
        if (package := getattr(factory, "package", None)) is not None:
            _check_installed(name, package)
        found.append(factory)
    return found


def _check_installed(name: str, package: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise UsageError(
            f"logger {name!r} needs a package that is not installed: pip install {package}."
        ) from error


def make_loggers(names: Sequence[str], folder: Path, config: Mapping[str, Any]) -> list[Logger]:
    """Return the trackers of these names; one that fails later is left out from then on.

    Args:
        names: as `KIND.load` takes them.
        folder: the run directory.
        config: plain options of the training or the search, "training" among them: its name.

    Raises:
        UsageError: there is none of that name, its package is not installed, or it cannot begin.
    """
    with ExitStack() as begun:
        made = [
            _begin(name, factory, folder, config, begun)
            for name, factory in zip(names, find_loggers(names), strict=True)
        ]
        begun.pop_all()  # all did: closing them is the caller's
    return made


def _begin(
    name: str, factory: Factory, folder: Path, config: Mapping[str, Any], begun: ExitStack
) -> Logger:
    """Make one tracker, which is closed with those that have begun."""
    try:
        made = _Dispensable(name, factory(folder, config))
    except AutopruneError:
        raise
    except Exception as error:  # a server that does not answer, a key that is missing
        raise UsageError(f"logger {name!r} cannot begin: {describe(error)}") from error
    begun.callback(made.close)
    return made


class _Dispensable:
    """A tracker whose failure costs a warning, and not what it watches."""

    def __init__(self, name: str, tracker: Logger) -> None:
        self._name, self._tracker = name, tracker
        self._works = True

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Pass the figures on, as long as that works."""
        self._try(lambda: self._tracker.log(step, figures))

    def close(self) -> None:
        """Finish."""
        self._try(lambda: self._tracker.close())

    def _try(self, act: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            act()
        except Exception as error:
            self._works = False
            log.warning("logger %r fails, and is told no more: %s", self._name, describe(error))


class Log:
    """Rows of figures, in a JSON Lines file and in trackers."""

    def __init__(self, path: Path | None = None, trackers: Sequence[Logger] = ()) -> None:
        """Write to a file, which `resume` goes on with; None writes none."""
        self._path, self._trackers = path, trackers
        self.rows: list[Row] = []

    def resume(self, step: int) -> None:
        """Keep the rows of the file up to a step; what was written after the checkpoint goes."""
        if self._path is None or not os.path.lexists(self._path):
            return
        self.rows = [row for row in self._kept() if row["step"] <= step]
        self._rewrite()

    def _kept(self) -> list[Row]:
        """Return the rows of the file; those that are damaged are left out, and said to be."""
        assert self._path is not None
        try:
            lines = read_text(self._path).splitlines()
        except (OSError, ValueError) as error:
            log.warning("%r is damaged, and begins again: %s", str(self._path), file_fault(error))
            return []
        rows: list[Row] = []
        for line in filter(None, lines):
            with suppress(ValueError):
                rows.append(_row(parse_json(line)))
        if lost := len(list(filter(None, lines))) - len(rows):
            log.warning("%r is damaged: %s cannot be read", str(self._path), counted(lost, "line"))
        return rows

    def write(self, row: Row) -> None:
        """Add a row; figures that are not known are left out of trackers."""
        self.rows.append(row)
        self._rewrite()
        known = {k: float(v) for k, v in row.items() if k != "step" and v is not None}
        for tracker in self._trackers:
            tracker.log(row["step"], known)

    def close(self) -> None:
        """Finish the trackers."""
        for tracker in self._trackers:
            tracker.close()

    def _rewrite(self) -> None:
        if self._path is not None:
            text = "".join(f"{json.dumps(row)}\n" for row in self.rows)
            write_whole(self._path, lambda draft: draft.write_text(text))


def _row(value: Any) -> Row:
    """Return a row as it was written.

    Raises:
        ValueError: it is none.
    """
    read(value, Table[float | None])
    if not isinstance(value.get("step"), int):
        raise ValueError("a line of it is no row of figures")
    row: Row = value  # whole numbers stay as they were written
    return row

"""What a sweep leaves behind: a run directory for every budget, and what they are together."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from autoprune.core.files import write_whole
from autoprune.core.records import Table, Text, read
from autoprune.core.untrusted import read_json
from autoprune.errors import RunError, file_fault, spelt
from autoprune.study.run_directory import (
    SWEEP_RECORD,
    RunDirectory,
    how_to_resume,
    storage_of,
)


class SweepRecord(msgspec.Struct, frozen=True):
    """What a sweep was asked: it goes on from this.

    Attributes:
        sweep: the budgets, as `Sweep.parse` reads them.
        settings: the options that its runs share.
    """

    sweep: Text
    settings: Table[Any]


class SweepDirectory:
    """Paths and files of a sweep."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.record_path = self.path / SWEEP_RECORD
        self.report_path = self.path / "report.html"

    def run(self, name: str) -> RunDirectory:
        """Return the run directory of a budget."""
        return RunDirectory(self.path / name)

    def held(self) -> AbstractContextManager[None]:
        """Keep other processes from writing here, as `RunDirectory.held` does."""
        return RunDirectory(self.path).held()

    @property
    def is_begun(self) -> bool:
        """Whether there is a sweep."""
        return os.path.lexists(self.record_path)

    @property
    def how_to_resume(self) -> str:
        """What is said of a sweep that was interrupted."""
        if not self.is_begun:
            return "Interrupted before the first budget: nothing was written."
        return how_to_resume("sweep", self.path, storage_of(self.load().settings))

    def check_free(self) -> None:
        """Refuse a directory that is in use.

        Raises:
            RunError: it holds a sweep, a run, or other files.
        """
        if self.is_begun:
            raise RunError(
                f"output directory {str(self.path)!r} holds another sweep; continue that with "
                f"{spelt('resume', True)}, or choose another name."
            )
        RunDirectory(self.path).check_free()

    def load(self) -> SweepRecord:
        """Return what was asked.

        Raises:
            RunError: there is no sweep, or its record is damaged.
        """
        try:
            return read(read_json(self.record_path), SweepRecord)
        except FileNotFoundError as error:
            raise RunError(
                f"{str(self.path)!r} holds no sweep: there is no {SWEEP_RECORD} in it."
            ) from error
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {str(self.record_path)!r}: {file_fault(error)}") from error

    def save(self, content: Mapping[str, Any]) -> None:
        """Write what was asked and what is known so far."""
        text = json.dumps(content, indent=2) + "\n"
        write_whole(self.record_path, lambda draft: draft.write_text(text))

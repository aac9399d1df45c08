"""All that one search leaves behind, written so that nothing is ever half there.

The file is long since every file of a run is written and read in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import tomli_w
from torch import nn

from autoprune.core.files import (
    StateDict,
    check_place,
    check_writable,
    is_draft,
    load_state,
    save_state,
    write_whole,
)
from autoprune.core.lock import Holder, held, holder_path
from autoprune.core.policy import PruningPolicy
from autoprune.core.untrusted import check_regular, read_json, read_toml
from autoprune.errors import RunError, UsageError, did_you_mean, file_fault, shown, spelt
from autoprune.study.group_records import GroupRecords, read_groups
from autoprune.study.training_record import TrainingRecord

WEIGHTS = ("cut", "recovered", "finetuned", "from_scratch")
"""States of a run's network, in the order in which they come about; the last, of another training,
is only taken where it is asked for."""

SWEEP_RECORD = "sweep.json"
"""What a directory of several runs has instead of `config.toml`."""

# SQLite's, with its journals.
_STUDY = ("study.db", "study.db-journal", "study.db-wal", "study.db-shm")
# Files that are opened where they lie, and folders that are written into. Other files are replaced.
_OPENED = ("run.log", *_STUDY)
_FOLDERS = ("agent", "checkpoints", "export", "tensorboard")


def storage_of(settings: Mapping[str, Any]) -> str | None:
    """Return the URL of the storage that settings name; None if they name none."""
    url = settings.get("storage")
    return url if isinstance(url, str) else None


def resume_command(path: Path, storage: str | None) -> str:
    """Return the command line that goes on with a run or a sweep; it names the storage again."""
    more = "" if storage is None else f" --storage {shlex.quote(storage)}"
    return f"autoprune search --resume --output {shlex.quote(str(path))}{more}"


def how_to_resume(function: str, path: Path, storage: str | None) -> str:
    """Return what is said of a run or a sweep that was interrupted.

    Args:
        function: of `autoprune` that made it.
        path: its directory.
        storage: that it shares with others.
    """
    more = "" if storage is None else f"storage={storage!r}, "
    python = f"autoprune.{function}(…, output={str(path)!r}, {more}resume=True)"
    return f"Interrupted: continue with: {resume_command(path, storage)} (from Python: {python})"


class RunDirectory:
    """Paths and files of a run (the README lists them)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.toml"
        self.policy_path = self.path / "policy.json"
        self.weights_path = self.path / "pruned.safetensors"
        self.unrecovered_path = self.path / "pruned-unrecovered.safetensors"
        self.result_path = self.path / "result.json"
        self.groups_path = self.path / "groups.json"
        self.report_path = self.path / "report.html"
        self.agent_path = self.path / "agent"
        self.recovery_path = self.path / "checkpoints" / "recovery.pt"
        self.log_path = self.path / "run.log"
        self.standing_path = self.path / "standing.json"
        self._lock_path = self.path / ".lock"
        self._locks = self._lock_path, holder_path(self._lock_path)
        # Beside the run: it is measured before anything of the run is written, and outlives it.
        whole = self.path.absolute()
        self.latency_path = whole.with_name(f"{whole.name}.latency.json")

    def training(self, from_scratch: bool = False) -> TrainingRecord:
        """Return what fine-tuning leaves behind, or training from new weights."""
        return TrainingRecord(self.path, "from_scratch" if from_scratch else "finetune")

    @property
    def method(self) -> TrainingRecord:
        """What training with a method leaves behind, by which the network was cut.

        In a run of a search that began at such a training, its weights alone.
        """
        return TrainingRecord(self.path, "train")

    @property
    def storage(self) -> str:
        """URL of the run's Optuna storage.

        Raises:
            RunError: what is there is no file.
        """
        return _sqlite_url(self._study_file())

    @property
    def has_study(self) -> bool:
        """Whether a study is there to be read; one that is empty is being made."""
        file = self._study_file()
        return file.exists() and file.stat().st_size > 0

    @property
    def shared_storage(self) -> str | None:
        """The storage that has the trials until the search is finished; None if the run has."""
        return None if self.has_study else self._storage_url

    @property
    def missing_study(self) -> str:
        """Why there is no `study.db`, as what is said of it."""
        url = self.shared_storage
        if url is None:
            return "is missing"
        return f"is written when the search is finished: its trials are in the storage {url!r}"

    @property
    def holder(self) -> Holder | None:
        """The process that writes here, or did when it was killed; None if there is none."""
        return Holder.read(self._locks[1])

    @contextmanager
    def stored_study(self) -> Iterator[str]:
        """Give the URL of the same, for reading alone: nothing is written into the run.

        What a process was writing when it was killed is undone in a copy.

        Raises:
            RunError: there is no study, or no file.
        """
        file = self._study_file()
        if not file.exists():
            raise RunError(f"cannot read study {str(file)!r}: it {self.missing_study}.")
        if not _is_half_written(file):
            yield _sqlite_url(f"file:{quote(str(file))}", {"mode": "ro", "uri": "true"})
            return
        with tempfile.TemporaryDirectory() as folder:
            yield _sqlite_url(_copied(file, Path(folder)))

    def _study_file(self) -> Path:
        file = self.path / "study.db"
        try:
            for name in _STUDY:
                with suppress(FileNotFoundError):  # journals come and go
                    check_regular(self.path / name)
            return file.resolve()
        except (OSError, ValueError) as error:
            raise RunError(f"cannot open study {str(file)!r}: {file_fault(error)}.") from error

    def check_free(self) -> None:
        """Refuse a directory that is in use.

        Raises:
            RunError: it holds another run, or other files.
        """
        if self.config_path.exists():
            raise RunError(
                f"output directory {str(self.path)!r} holds another run; "
                f"continue that with {spelt('resume', True)}, or choose another name."
            )
        if self.path.exists() and (not self.path.is_dir() or self._holds_files()):
            raise RunError(f"output {str(self.path)!r} exists and is no run; choose another name.")
        check_writable(self.path, spelt("output"), is_folder=True)

    def _holds_files(self) -> bool:
        """Whether there is anything but what a killed process leaves behind."""
        left = {*self._locks, self.method.config_path}
        return not all(is_draft(one) or one in left for one in self.path.iterdir())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing here; a directory that stays empty is removed again.

        Raises:
            RunError: another process does write here, or the directory cannot be written, or is
                removed meanwhile; or a link, pipe or device lies where a file is to be opened.
        """
        made = [one for one in (self.path, *self.path.parents) if not one.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with held(self._lock_path, f"the run directory {str(self.path)!r}"):
                for name in (*_OPENED, *_FOLDERS):
                    check_place(self.path / name, is_folder=name in _FOLDERS)
                yield
        except OSError as error:
            own = {str(one) for one in (self.path, *made, *self._locks)}
            if str(error.filename) not in own:
                raise
            raise RunError(
                f"output {str(self.path)!r} cannot be written: {error.strerror}; choose another."
            ) from error
        finally:
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()

    def create(self, config: Mapping[str, Any]) -> None:
        """Make the directory with its configuration."""
        self.check_free()
        self.path.mkdir(parents=True, exist_ok=True)
        self.method.remove()
        self.save_config(config)

    def discard(self) -> None:
        """Remove what a search wrote that made no trial."""
        own = (self.config_path, self.log_path, self.standing_path, self.method.weights_path)
        for path in (*own, *self.path.glob("study.db*")):
            with suppress(OSError):
                path.unlink()

    def save_config(self, config: Mapping[str, Any]) -> None:
        """Write the configuration of a run that is there."""
        write_whole(self.config_path, lambda p: p.write_text(tomli_w.dumps(config)))

    @property
    def is_finished(self) -> bool:
        """Whether a search ended here with a result."""
        return os.path.exists(self.result_path)  # False for what cannot be a path

    @property
    def resume_command(self) -> str:
        """The command line that goes on with the run."""
        return resume_command(self.path, self._storage_url)

    @property
    def _storage_url(self) -> str | None:
        """The storage that the run shares with others; None where it has its own study."""
        with suppress(RunError):
            return storage_of(self.load_config())
        return None

    @property
    def how_to_resume(self) -> str:
        """What is said of a search that was interrupted."""
        if not self.config_path.exists():
            return "Interrupted before the first trial: nothing was written."
        return how_to_resume("search", self.path, self._storage_url)

    @property
    def quoted(self) -> str:
        """The path as a shell takes it."""
        return shlex.quote(str(self.path))

    def check_finished(self) -> None:
        """Refuse a run without a result: its other files may be missing, or of two sessions.

        Raises:
            RunError: there is no run, or it is not finished.
        """
        if not self.is_finished:
            self.load_config()
            how = f"{self.resume_command} (from Python: autoprune.search(…, resume=True))"
            if self.method.is_begun:
                how = self.method.resume_command
            raise RunError(f"the run in {str(self.path)!r} is not finished: finish it with: {how}")

    def load_config(self) -> dict[str, Any]:
        """Return the configuration of a run that is there.

        Raises:
            RunError: there is none, or it cannot be read.
        """
        try:
            return read_toml(self.config_path)
        except FileNotFoundError as error:
            if os.path.lexists(self.path / SWEEP_RECORD):
                raise RunError(
                    f"{str(self.path)!r} holds a sweep: name one of the run directories in it."
                ) from error
            left = self.path.is_dir() and not self._holds_files()
            hint = f"; begin again without {spelt('resume', True)}" if left else ""
            raise RunError(
                f"{str(self.path)!r} holds no run: there is no config.toml in it{hint}."
            ) from error
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {str(self.config_path)!r}: {file_fault(error)}") from error

    @property
    def identity(self) -> str:
        """A name that no other run has among those that search one study.

        It was drawn when the run began, and goes with it to another place. A run of an older
        version is told by its place.
        """
        drawn = self.load_config().get("process")
        if isinstance(drawn, str):
            return drawn
        place = f"{socket.gethostname()}:{self.path.resolve()}"
        return hashlib.sha256(place.encode()).hexdigest()[:12]

    def save_study(self, write: Callable[[str], None]) -> None:
        """Write the study, which was elsewhere until now.

        Args:
            write: writes it into the storage of a URL, which is empty.
        """
        write_whole(self._study_file(), lambda draft: write(_sqlite_url(draft)))

    def save_policy(self, policy: PruningPolicy) -> None:
        """Write the policy; what an earlier session ended with is no longer true then."""
        self.result_path.unlink(missing_ok=True)
        self.report_path.unlink(missing_ok=True)
        for from_scratch in (False, True):
            self.training(from_scratch).remove()
        write_whole(self.policy_path, policy.save)

    def load_policy(self) -> PruningPolicy:
        """Return the policy.

        Raises:
            RunError: the run is not finished, or the file is damaged.
        """
        self.check_finished()
        return PruningPolicy.load(self.policy_path)

    def save_weights(self, model: nn.Module) -> None:
        """Write the pruned model's tensors."""
        save_state(self.weights_path, model)
        self.unrecovered_path.unlink(missing_ok=True)  # of an earlier session

    def save_recovered(self, model: nn.Module) -> None:
        """Write the recovered model's tensors; those written before are kept beside them."""
        write_whole(self.unrecovered_path, lambda p: shutil.copyfile(self.weights_path, p))
        save_state(self.weights_path, model)

    def load_weights(
        self, own: Mapping[str, Any] | None = None, which: str | None = None
    ) -> StateDict:
        """Return the pruned model's tensors.

        Args:
            own: the state of the network that they are for; where it is infinite, they may be.
            which: one of `WEIGHTS`; by default the last of the first three that there is.

        Raises:
            UsageError: there are no such weights.
            RunError: they are missing, damaged or not finite.
        """
        path = self._weights_path(which)
        try:
            return load_state(path, own)
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {str(path)!r}: {file_fault(error)}") from error

    @property
    def searched_weights(self) -> str:
        """Which of `WEIGHTS` the search handed over."""
        return "recovered" if self._was_recovered else "cut"

    @property
    def _was_recovered(self) -> bool:
        return self.unrecovered_path.exists()

    def _weights_path(self, which: str | None) -> Path:
        """Return the file of the weights that are meant."""
        if which not in (None, *WEIGHTS):
            raise UsageError(f"unknown weights {shown(which)}; {did_you_mean(str(which), WEIGHTS)}")
        was_recovered, tuned = self._was_recovered, self.training().weights_path
        fresh = self.training(from_scratch=True).weights_path
        if which == "from_scratch" and fresh.exists():
            return fresh
        there = {
            "cut": self.unrecovered_path if was_recovered else self.weights_path,
            **({"recovered": self.weights_path} if was_recovered else {}),
            **({"finetuned": tuned} if tuned.exists() else {}),
        }
        if which is not None and which not in there:
            raise UsageError(
                f"the run in {str(self.path)!r} has no {which} weights; it has {', '.join(there)}."
            )
        return there[which or list(there)[-1]]

    def save_groups(self, groups: GroupRecords) -> None:
        """Write what is known of every group."""
        text = msgspec.json.encode(groups)
        write_whole(self.groups_path, lambda p: p.write_bytes(text))

    def load_groups(self) -> GroupRecords | None:
        """Return what was known of every group; None if an older version made the run.

        Raises:
            RunError: the file is damaged.
        """
        if not os.path.lexists(self.groups_path):
            return None
        try:
            return read_groups(self.groups_path)
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {str(self.groups_path)!r}: {file_fault(error)}") from error

    def remove_state(self) -> None:
        """Remove what a finished search needs no more: where it stood, its recovery's state."""
        self.standing_path.unlink(missing_ok=True)
        self.recovery_path.unlink(missing_ok=True)
        with suppress(OSError):
            self.recovery_path.parent.rmdir()

    def save_result(self, result: Mapping[str, Any]) -> None:
        """Write the result."""
        text = json.dumps(result, indent=2) + "\n"
        write_whole(self.result_path, lambda p: p.write_text(text))

    def load_result(self) -> dict[str, Any]:
        """Return the result.

        Raises:
            RunError: the run is not finished, or the file is damaged.
        """
        self.check_finished()
        try:
            data = read_json(self.result_path)
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {str(self.result_path)!r}: {file_fault(error)}") from error
        if not isinstance(data, dict):
            raise RunError(f"{str(self.result_path)!r} holds no result: it was altered.")
        return data


def _is_half_written(study: Path) -> bool:
    """Return whether a process was killed while it wrote: who only reads cannot undo that."""
    if not study.with_name(f"{study.name}-journal").exists():
        return False
    try:
        with closing(sqlite3.connect(f"file:{quote(str(study))}?mode=ro", uri=True)) as database:
            database.execute("select name from sqlite_master").fetchone()
    except sqlite3.OperationalError:
        return True
    except sqlite3.Error:  # no database: who reads it says so
        return False
    return False


def _copied(study: Path, folder: Path) -> Path:
    """Return a copy of a study, with its journals."""
    try:
        # The journal first: whatever is written meanwhile, it is of the file then or before.
        for name in reversed(_STUDY):
            with suppress(FileNotFoundError):
                shutil.copyfile(study.with_name(name), folder / name)
    except OSError as error:
        raise RunError(f"cannot copy study {str(study)!r}: {file_fault(error)}") from error
    return folder / study.name


def _sqlite_url(file: str | Path, options: Mapping[str, str] | None = None) -> str:
    from sqlalchemy import URL  # Optuna's; it knows which characters a URL must escape

    return URL.create("sqlite", database=str(file), query=options or {}).render_as_string()


def next_free(folder: Path, name: str) -> Path:
    """Return `folder/name-1`, or the first number that is not taken."""
    number = 1
    while (folder / f"{name}-{number}").exists():
        number += 1
    return folder / f"{name}-{number}"

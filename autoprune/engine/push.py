"""A run as a folder for a model hub: weights, widths, figures and a model card."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from autoprune.core.files import check_place, check_writable, write_whole
from autoprune.core.lazy import require
from autoprune.errors import RunError, UsageError, first_line, shown, spelt
from autoprune.reporting.model_card import model_card
from autoprune.reporting.run_records import read_runs
from autoprune.study.run_directory import RunDirectory

CARD = "README.md"


def pack_run(run: RunDirectory, repository: str, folder: Path) -> None:
    """Write a run's policy, weights, figures and model card into a new folder.

    Args:
        run: a finished run.
        repository: "user/name", which the card names.
        folder: the folder; it must not be there.

    Raises:
        UsageError: the repository is not a name on a hub.
        RunError: the run is not finished or damaged, or the folder is there.
    """
    check_repository(repository)
    if folder.exists():
        raise RunError(f"{str(folder)!r} is there already: remove it or choose another folder.")
    card = model_card(read_runs([run.path])[0], repository)
    check_writable(folder, spelt("folder"), is_folder=True)
    place = folder.absolute().parent
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".packed-", dir=place) as temporary:
        draft = Path(temporary, "draft")
        draft.mkdir()
        for file in _files(run):
            shutil.copyfile(file, draft / file.name)
        write_whole(draft / CARD, lambda path: path.write_text(card, encoding="utf-8"))
        draft.rename(folder)


def push_run(run: RunDirectory, repository: str, private: bool) -> str:
    """Upload a run to Hugging Face's hub, and return the address.

    Args:
        run: a finished run.
        repository: "user/name"; it is made if it is not there.
        private: whether a new repository is for its owner alone.

    Raises:
        UsageError: the repository is not a name, `huggingface_hub` is missing, or the hub refuses.
        RunError: the run is not finished or damaged.
    """
    require("push", "hub", "huggingface_hub")
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "packed"
        pack_run(run, repository, folder)
        hub = HfApi(library_name="autoprune")
        try:
            address = hub.create_repo(repository, private=private, exist_ok=True)
            hub.upload_folder(repo_id=address.repo_id, folder_path=folder)
        except Exception as error:  # of whichever HTTP library this version of the hub's uses
            raise UsageError(
                f"the hub does not take {repository!r}: {first_line(error)} (log in with: "
                "hf auth login)"
            ) from error
    return str(address)


def check_repository(name: str) -> None:
    """Refuse what is not the name of a repository.

    Raises:
        UsageError: it is not.
    """
    if re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", name, re.ASCII) is None:
        raise UsageError(f"{shown(name)} is not a repository: write USER/NAME.")


def _files(run: RunDirectory) -> list[Path]:
    """Return what others need; config.toml stays, which names places on this machine, and code.

    Raises:
        RunError: something else lies in the place of a file. What a link leads to is not published.
    """
    tuned = run.training().weights_path
    kept = [run.policy_path, run.weights_path, run.result_path]
    files = [*kept, tuned] if os.path.lexists(tuned) else kept
    for file in files:
        check_place(file)
    return files

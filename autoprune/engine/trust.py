"""Whose code runs: what a run directory or a config file names is imported only by consent.

The configuration of a run says which network, data, reward and so on it was made of, some of it as
Python files or modules. A run may come from anybody. So its code is imported only if the user names
it again, says that he trusts it, or made the run himself. That is remembered outside the run, in
the user's state folder: a file for every piece of code, named by a digest of where the run lies,
what it names, and what is in the files that it names.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_state_path

from autoprune.core.plugins import absolute, absolute_object, files_of
from autoprune.errors import UsageError, file_fault
from autoprune.options.commands import NAMING_CODE

STATE_FOLDER = "AUTOPRUNE_STATE_DIR"
"""The environment variable that moves the folder of what is remembered."""


@dataclass(frozen=True)
class Code:
    """What one option of a run or config file imports.

    Attributes:
        place: the run directory or config file.
        option: that names it, a key of the configuration.
        spec: `path/to/file.py:NAME` or `package.module:NAME`.
        files: that it lies in.
    """

    place: Path
    option: str
    spec: str
    files: tuple[Path, ...]

    @property
    def is_trusted(self) -> bool:
        """Whether the user agreed to it, as it is now."""
        return os.path.exists(self._record)

    def trust(self) -> None:
        """Remember that the user agrees.

        Raises:
            OSError: the state folder cannot be written.
        """
        self._record.parent.mkdir(parents=True, exist_ok=True)
        self._record.write_text(json.dumps(self._identity, indent=2) + "\n", encoding="utf-8")

    @property
    def _record(self) -> Path:
        digest = hashlib.sha256(json.dumps(self._identity).encode()).hexdigest()
        return state_folder() / "trusted" / f"{digest}.json"

    @property
    def _identity(self) -> dict[str, Any]:
        contents = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in self.files}
        return {
            "place": str(self.place.resolve()),
            self.option: absolute_object(self.spec),
            "files": contents,
        }

    def __str__(self) -> str:
        return f"{self.option.replace('_', '-')} {self.spec!r}"


def state_folder() -> Path:
    """Return the folder of what is remembered for this user."""
    named = os.environ.get(STATE_FOLDER)
    return Path(absolute(named)) if named else user_state_path("autoprune", appauthor=False)


def code_in(place: Path, options: Mapping[str, Any]) -> Iterator[Code]:
    """Yield what options of a run or config file import; what is not there is left to its reader.

    Args:
        place: the run directory or config file.
        options: by the configuration's keys; others than those that name code by their declaration
            (`ValueKind.is_installed`) are ignored.
    """
    for option, declared in NAMING_CODE.items():
        is_installed, value = declared.kind.is_installed, options.get(option)
        for spec in value if isinstance(value, (list, tuple)) else [value]:
            if is_installed is None or not isinstance(spec, str) or ":" not in spec:
                continue
            if not is_installed(spec) and (files := files_of(spec)) is not None:
                yield Code(place, option, spec, tuple(files))


def check_trusted(place: Path, options: Mapping[str, Any], how: str) -> None:
    """Refuse to import what the user did not agree to.

    Args:
        place: the run directory or config file.
        options: of it, without those that the user gave himself.
        how: he can agree, to end the message.

    Raises:
        UsageError: there is such code.
    """
    strange = [str(code) for code in code_in(place, options) if not code.is_trusted]
    if strange:
        raise UsageError(
            f"{str(place)!r} names code of its own, which was not run: {', '.join(strange)}. It is "
            f"not known from here, or has changed since; {how}."
        )


def trust(place: Path, options: Mapping[str, Any]) -> str | None:
    """Remember that the user agrees to all code that a run or config file names.

    Returns:
        Why that is not possible; None if it is.
    """
    try:
        for code in code_in(place, options):
            code.trust()
    except OSError as error:
        return (
            f"that you trust the code of {str(place)!r} cannot be kept in "
            f"{str(state_folder())!r} ({file_fault(error)}): --trust will be needed "
            "again on the command line"
        )
    return None

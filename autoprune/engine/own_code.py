"""Digests of the code that a search was given: what it measures depends on that, too."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from autoprune.core.plugins import object_name
from autoprune.errors import UsageError
from autoprune.evaluation.reward import NamedReward
from autoprune.importance import KIND as IMPORTANCE
from autoprune.options.search import SearchConfig


class Given(Protocol):
    """A search with its functions, as a task or a context has them."""

    @property
    def config(self) -> SearchConfig: ...  # noqa: D102
    @property
    def reward(self) -> NamedReward: ...  # noqa: D102
    @property
    def evaluate(self) -> Any: ...  # noqa: D102
    @property
    def distance(self) -> Any: ...  # noqa: D102


def digest_of_code(given: Given) -> str | None:
    """Return a digest of the names and files of all objects; None if one comes from no file."""
    said = {}
    for option, one in _objects(given).items():
        if (file := _file_of(one)) is None:
            return None
        said[option] = object_name(one).partition(":")[2], _digest(file)
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def check_code(given: Given) -> None:
    """Refuse code by which searches could not be told apart.

    Raises:
        UsageError: an object comes from no file.
    """
    for option, one in _objects(given).items():
        if _file_of(one) is None:
            raise UsageError(
                f"{option} {object_name(one)} comes from no file: trials are shared among searches "
                "with the same code alone; write it into a Python file."
            )


def _objects(given: Given) -> Mapping[str, Any]:
    """Return the objects that are not autoprune's own, by what they are for."""
    found = {
        "evaluate": given.evaluate,
        "distance": given.distance,
        "reward": given.reward.function,
        "importance": IMPORTANCE.load(given.config.importance),
    }
    return {option: one for option, one in found.items() if one is not None and not _is_ours(one)}


def _is_ours(one: Any) -> bool:
    return object_name(one).partition(":")[0].partition(".")[0] == "autoprune"


def _file_of(one: Any) -> Path | None:
    named = inspect.unwrap(one) if hasattr(one, "__qualname__") else type(one)
    try:
        file = inspect.getsourcefile(named)
    except TypeError:  # built into Python
        return None
    return Path(file) if file is not None and Path(file).is_file() else None


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()

"""URLs of Optuna storages, as users write them."""

from __future__ import annotations

from typing import Any

from autoprune.core.plugins import absolute
from autoprune.errors import UsageError, shown, spelt

# What comes before the path of a file.
_FILES = ("sqlite:///", "journal://")


def read_storage(value: Any) -> str:
    """Return the URL of a storage, with the whole path of a file.

    Raises:
        TypeError: it is no text.
        UsageError: it is no URL, or says a password.
    """
    if not isinstance(value, str):
        raise TypeError
    scheme, found, rest = value.partition("://")
    if not (scheme and found and rest.strip("/")):
        raise UsageError(
            f"{spelt('storage')} {shown(value)} is not the URL of a storage: write e.g. "
            "sqlite:///study.db, postgresql://USER@HOST/NAME or journal://study.log."
        )
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at and ":" in user:
        raise UsageError(
            f"{spelt('storage')} says a password, which config.toml would keep: leave it out, and "
            f"let the driver of {scheme} find it (PGPASSWORD or ~/.pgpass for PostgreSQL)."
        )
    return absolute_storage(value)


def absolute_storage(url: str) -> str:
    """Return the URL that means the same in any folder."""
    for begin in _FILES:
        if url.startswith(begin) and "?" not in url:
            return f"{begin}{absolute(url.removeprefix(begin))}"
    return url

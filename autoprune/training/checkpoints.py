"""State of an unfinished training run in a file, read without running any code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from autoprune.core.files import write_whole
from autoprune.core.pytorch_files import load_pytorch
from autoprune.errors import RunError, first_line

FORMAT = "autoprune training state"


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"format": FORMAT, **state}
    write_whole(path, lambda draft: torch.save(whole, draft))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; tensors come to the CPU.

    Raises:
        RunError: it is missing, damaged, or holds anything but tensors and plain values.
    """
    try:
        found = load_pytorch(path)
    except Exception as error:  # any error of zipfile, pickle or torch
        raise RunError(f"cannot read checkpoint {str(path)!r}: {first_line(error)}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise RunError(f"{str(path)!r} is no checkpoint of a training run.")
    return found

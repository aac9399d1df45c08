"""The files of a kit, and the header that the kit and its results begin with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.core.records import plain
from autoprune.cost.latency.conditions import Conditions
from autoprune.errors import TableError

FORMAT, VERSION = "autoprune kit", 2
TASKS, README, MODELS = "tasks.json", "README.txt", "models"
# What is in a kit → the module of autoprune that it is a copy of.
CODE = {
    "run.py": "autoprune.profiling.kit.runner",
    "portable.py": "autoprune.profiling.backends.portable",
}

_README = """What this folder is
===================
It measures how long {what} on this device. It needs
Python 3.8 or newer and ONNX Runtime (pip install onnxruntime), nothing else.

    python run.py

writes results.jsonl, one line per measurement. If it is interrupted, the same command goes on where
it was. Let the device do nothing else meanwhile. Then bring results.jsonl back:

    {back}
"""
OF_LAYERS = _README.format(
    what="the layers of a network take",
    back="autoprune profile --model … --from-kit results.jsonl --output table.json",
)
OF_WINNER = _README.format(
    what="a network and its pruned version take",
    back="autoprune evaluate RUN --from-kit results.jsonl",
)


def header(identity: Mapping[str, Any], conditions: Conditions) -> dict[str, Any]:
    """Return the header of a kit and of its results.

    Args:
        identity: What tells the measured networks from all others.
        conditions: The conditions of all measurements.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "conditions": plain(conditions),
        "subject": dict(identity),
    }


def check_header(found: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> None:
    """Refuse results whose header is not the expected one.

    Raises:
        TableError: The results are of another version, subject or of other conditions.
    """
    if (found["format"], found["version"]) != (FORMAT, VERSION):
        raise TableError(f"{str(path)!r} holds no results of a kit of version {VERSION}.")
    if found["subject"] != expected["subject"]:
        raise TableError(
            f"the results in {str(path)!r} are of another kit: of another network, input size or "
            "run than is named here, or of its winner at other widths."
        )
    if found["conditions"] != expected["conditions"]:
        raise TableError(
            f"the results in {str(path)!r} were measured with {str(found['conditions'])[:300]}: "
            "name the same options, or the same latency table, as for --kit."
        )

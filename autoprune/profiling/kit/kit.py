"""Measuring on a device that has no PyTorch: a folder to take there, and what comes back.

The folder holds ONNX models, all with weights that ONNX Runtime unfolds itself, and a runner that
needs Python and ONNX Runtime alone. For a table these are all signatures and some whole networks:
nobody is there to refine curves while they are measured, so that every curve is measured at all
steps. For the winner of a search they are the dense network and the pruned one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.core.policy import Widths
from autoprune.core.untrusted import extent, parse_json, read_text
from autoprune.cost.latency.alignment import Axis
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.signature import Family, Signature, families
from autoprune.cost.latency.table import LatencyTable, Origin
from autoprune.data.forms import Inputs, described, tensors
from autoprune.errors import TableError, UsageError, first_line
from autoprune.profiling.backends.onnx import exported, provider
from autoprune.profiling.backends.onnx_files import layer_model, with_light_weights
from autoprune.profiling.grid import wanted
from autoprune.profiling.journal import Journal, subject
from autoprune.profiling.profiler import build_table, cut_to, layer_beside, spread
from autoprune.profiling.refinement import TimingAt, coarse, largest_step
from autoprune.profiling.sampling import Alignments, Measured, Sampling
from autoprune.profiling.stopwatch import Timing
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import sample

FORMAT, VERSION = "autoprune kit", 2
TASKS, RESULTS, RUNNER = "tasks.json", "results.jsonl", "run.py"
# At most so many steps along one width of a layer.
MOST_STEPS = 16

# What layers are taken to be quick at multiples of, as ONNX Runtime's are on CPUs.
ALIGNMENT = 4


class Everywhere(Sampling):
    """Measures both sides of every step that a curve may have."""

    def probes(self, family: Family) -> Sequence[Signature]:
        """Ask nothing: the answer would come too late."""
        return ()

    def alignments(self, layers: Sequence[Family], measured: Measured) -> Alignments:
        """Take every layer that is wide enough for one with a quick path."""
        return {one: ALIGNMENT if one.may_align_to(ALIGNMENT) else 1 for one in layers}

    def places(self, axis: Axis, varies: bool, timing: TimingAt) -> set[int]:
        """Return both sides of every step."""
        last, step = axis.places, largest_step(axis)
        width = max(step, math.ceil(last / MOST_STEPS / step) * step)
        edges = [*coarse(last, varies, step), *(range(width, last, width) if varies else ())]
        return {place for edge in edges for place in (edge, edge + 1) if place <= last}


EVERYWHERE = Everywhere()

README = """What this folder is
===================
It measures how long {what} on this device. It needs
Python 3.8 or newer and ONNX Runtime (pip install onnxruntime), nothing else.

    python run.py

writes results.jsonl, one line per measurement; interrupted, the same command goes on where it was.
Let the device do nothing else meanwhile. Then bring results.jsonl back:

    {back}
"""
OF_LAYERS = README.format(
    what="the layers of a network take",
    back="autoprune profile --model … --from-kit results.jsonl --output table.json",
)
OF_WINNER = README.format(
    what="a network and its pruned version take",
    back="autoprune evaluate RUN --from-kit results.jsonl",
)


@dataclass(frozen=True, eq=False)
class KitTask:
    """A model that a kit measures: ONNX, the shape of its input, and what it is in the results."""

    content: bytes
    shape: tuple[int, ...]
    key: Mapping[str, Any]


def write_kit(
    folder: Path, model: nn.Module, structure: Structure, inputs: Inputs, conditions: Conditions
) -> int:
    """Write a kit for a latency table and return how many models are in it.

    Raises:
        UsageError: the folder holds something, or the data type is unknown to ONNX.
    """
    inputs = sample(inputs, conditions.batch)
    networks = ((cut_to(model, structure, widths), widths) for widths in spread(structure))
    tasks = chain(_layers(structure, conditions), _networks(networks, inputs, conditions))
    return _write(folder, tasks, subject(structure, inputs), conditions, OF_LAYERS)


def write_winner(
    folder: Path,
    networks: Sequence[tuple[nn.Module, Widths]],
    inputs: Inputs,
    about: Mapping[str, Any],
    conditions: Conditions,
) -> None:
    """Write a kit that measures networks in turn.

    Args:
        folder: to be written.
        networks: and their widths, the dense one first.
        inputs: of one sample or more.
        about: what tells the run from all others.
        conditions: to measure under.

    Raises:
        UsageError: the folder holds something, or the data type is unknown to ONNX.
    """
    tasks = _networks(networks, sample(inputs, conditions.batch), conditions)
    _write(folder, tasks, about, conditions, OF_WINNER)


def read_kit(
    path: Path, structure: Structure, inputs: Inputs, conditions: Conditions
) -> LatencyTable:
    """Return the table that a kit's results make.

    Args:
        path: of the results.
        structure: of the network that the kit was written for.
        inputs: as the kit was written with.
        conditions: of the kit; threads that were left to the device are those it measured with.

    Raises:
        TableError: the results are damaged, lack a measurement, or are of another network or
            conditions.
    """
    journal, origin, conditions = _read(path, subject(structure, inputs), conditions)
    _check_networks(journal, spread(structure), path)
    return build_table(structure, conditions, origin, journal, EVERYWHERE)


def read_winner(
    path: Path, widths: Sequence[Widths], about: Mapping[str, Any], conditions: Conditions
) -> tuple[Origin, Conditions, list[Timing]]:
    """Return where and how a winner's kit was run, and how long networks of some widths took there.

    Raises:
        TableError: the results are damaged, lack a network, or are of another run or conditions.
    """
    journal, origin, conditions = _read(path, about, conditions)
    _check_networks(journal, widths, path)
    known = journal.networks
    return origin, conditions, [known[one] for one in widths]


def _layers(structure: Structure, conditions: Conditions) -> Iterator[KitTask]:
    layers = families(structure)
    # What all others of a kind are measured beside comes first.
    for signature in dict.fromkeys([layer_beside(layers), *wanted(layers, _unknown, EVERYWHERE)]):
        content = layer_model(signature, conditions.batch, conditions.dtype)
        shape = signature.input_shape(conditions.batch)
        yield KitTask(content, shape, {"layer": signature.to_json()})


def _networks(
    networks: Iterable[tuple[nn.Module, Widths]], inputs: Inputs, conditions: Conditions
) -> Iterator[KitTask]:
    given = tensors(inputs)
    if len(given) != 1 or not given[0].is_floating_point():
        raise UsageError(
            "a kit measures networks of one tensor of floats, but the inputs are "
            f"{described(inputs)}: measure here, with --backend onnxruntime."
        )
    for network, widths in networks:
        content = with_light_weights(exported(network, inputs, conditions.dtype))
        yield KitTask(content, tuple(given[0].shape), {"network": list(widths)})


def _write(
    folder: Path,
    models: Iterable[KitTask],
    about: Mapping[str, Any],
    conditions: Conditions,
    readme: str,
) -> int:
    """Write a kit and return how many models are in it."""
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"--kit {str(folder)!r} is not empty: choose another folder.")
    models = list(models)  # a network that cannot be exported leaves no folder behind
    (folder / "models").mkdir(parents=True, exist_ok=True)
    tasks: list[dict[str, Any]] = []
    for model in models:
        name = f"models/{len(tasks):05d}.onnx"
        (folder / name).write_bytes(model.content)
        tasks.append({"file": name, "shape": list(model.shape), **model.key})
    head = {**_head(about, conditions), "provider": provider(conditions.device)}
    (folder / TASKS).write_text(json.dumps({**head, "tasks": tasks}))
    (folder / RUNNER).write_text(files(__package__).joinpath("runner.py").read_text("utf-8"))
    (folder / "README.txt").write_text(readme, encoding="utf-8")
    return len(tasks)


def _read(
    path: Path, about: Mapping[str, Any], conditions: Conditions
) -> tuple[Journal, Origin, Conditions]:
    """Return what a kit's results hold, where they were measured, and under which conditions."""
    try:
        lines = [parse_json(line) for line in read_text(path).splitlines()]
        head = lines[0]
        if conditions.threads is None:
            conditions = replace(conditions, threads=extent(head["conditions"]["threads"]))
        journal = Journal(None, conditions.to_json())
        wanted_head = _head(about, conditions)
        _check_head({key: head.get(key) for key in wanted_head}, wanted_head, path)
        for line in lines[1:]:
            journal.take(line)
        measured = {"noisy": journal.noisy, "measurements": len(journal.layers), "seconds": 0}
        origin = Origin.from_json(
            {**measured, **{key: head.get(key) for key in ("device", "versions", "date")}}
        )
    except TableError:
        raise
    except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise TableError(
            f"cannot read the kit's results {str(path)!r}: {first_line(error)}."
        ) from error
    return journal, origin, conditions


def _check_networks(journal: Journal, widths: Iterable[Widths], path: Path) -> None:
    known = journal.networks
    if lacking := sum(one not in known for one in widths):
        raise TableError(
            f"the results in {str(path)!r} lack {lacking} whole networks: the kit has not measured "
            "all yet; run it on the device again, it goes on where it was."
        )


def _head(about: Mapping[str, Any], conditions: Conditions) -> dict[str, Any]:
    """Return what a kit and its results begin with."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "conditions": conditions.to_json(),
        "subject": dict(about),
    }


def _check_head(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    if (found["format"], found["version"]) != (FORMAT, VERSION):
        raise TableError(f"{str(path)!r} holds no results of a kit of version {VERSION}.")
    if found["subject"] != wanted["subject"]:
        raise TableError(
            f"the results in {str(path)!r} are of another kit: of another network, input size or "
            "run than is named here, or of its winner at other widths."
        )
    if found["conditions"] != wanted["conditions"]:
        raise TableError(
            f"the results in {str(path)!r} were measured with {str(found['conditions'])[:300]}: "
            "name the same options, or the same latency table, as for --kit."
        )


def _unknown(signature: Signature) -> None:
    """Nothing is measured when a kit is written."""

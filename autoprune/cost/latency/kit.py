"""Measuring on a device that has no PyTorch: a folder to take there, and what comes back.

The folder holds the ONNX models of all signatures and of some whole networks, all with weights that
ONNX Runtime unfolds itself, and a runner that needs Python and ONNX Runtime alone. Nobody is there
to refine curves while they are measured, so that every curve is measured at all steps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autoprune.cost.latency.backends import Conditions
from autoprune.cost.latency.journal import Journal, subject
from autoprune.cost.latency.lattice import Axis
from autoprune.cost.latency.nodes import TimingAt, coarse, largest_step
from autoprune.cost.latency.onnx_backend import exported, provider
from autoprune.cost.latency.onnx_files import layer_model, with_light_weights
from autoprune.cost.latency.profiler import build_table, cut_to, layer_beside, spread
from autoprune.cost.latency.sampling import Alignments, Measured, Sampling
from autoprune.cost.latency.sheets import wanted
from autoprune.cost.latency.signature import Family, Signature, families
from autoprune.cost.latency.table import LatencyTable, Origin
from autoprune.cost.latency.untrusted import read_text
from autoprune.errors import TableError, UsageError, first_line
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
It measures how long the layers of a network take on this device. It needs Python 3.8 or newer and
ONNX Runtime (pip install onnxruntime), nothing else.

    python run.py

writes results.jsonl, one line per measurement; interrupted, the same command goes on where it was.
Let the device do nothing else meanwhile. Then bring results.jsonl back:

    autoprune profile --model … --from-kit results.jsonl --output table.json
"""


def write_kit(
    folder: Path, model: nn.Module, structure: Structure, inputs: Tensor, conditions: Conditions
) -> int:
    """Write the folder and return how many models are in it.

    Raises:
        UsageError: the folder holds something, or the data type is unknown to ONNX.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"--kit {str(folder)!r} is not empty: choose another folder.")
    (folder / "models").mkdir(parents=True, exist_ok=True)
    tasks: list[dict[str, Any]] = []

    def add(content: bytes, shape: tuple[int, ...], key: Mapping[str, Any]) -> None:
        name = f"models/{len(tasks):05d}.onnx"
        (folder / name).write_bytes(content)
        tasks.append({"file": name, "shape": list(shape), **key})

    layers = families(structure)
    # What all others of a kind are measured beside comes first.
    for signature in dict.fromkeys([layer_beside(layers), *wanted(layers, _unknown, EVERYWHERE)]):
        content = layer_model(signature, conditions.batch, conditions.dtype)
        add(content, signature.input_shape(conditions.batch), {"layer": signature.to_json()})
    inputs = sample(inputs, conditions.batch).cpu()
    for widths in spread(structure):
        small = cut_to(model, structure, widths).cpu().eval()
        content = with_light_weights(exported(small, inputs))
        add(content, tuple(inputs.shape), {"network": list(widths)})
    head = {**_head(structure, inputs, conditions), "provider": provider(conditions.device)}
    (folder / TASKS).write_text(json.dumps({**head, "tasks": tasks}))
    (folder / RUNNER).write_text(files(__package__).joinpath("kit_runner.py").read_text("utf-8"))
    (folder / "README.txt").write_text(README, encoding="utf-8")
    return len(tasks)


def read_kit(
    path: Path, structure: Structure, inputs: Tensor, conditions: Conditions
) -> LatencyTable:
    """Return the table that a kit's results make.

    Args:
        path: of the results.
        structure: of the network that the kit was written for.
        inputs: as the kit was written with.
        conditions: of the kit.

    Raises:
        TableError: the results are damaged, lack a measurement, or are of another network or
            conditions.
    """
    journal = Journal(None, conditions.to_json())
    wanted_head = _head(structure, inputs, conditions)
    try:
        lines = [json.loads(line) for line in read_text(path).splitlines()]
        head = lines[0]
        _check_head({key: head.get(key) for key in wanted_head}, wanted_head, path)
        for line in lines[1:]:
            journal.take(line)
        measured = {"noisy": journal.noisy, "measurements": len(journal.layers), "seconds": 0}
        origin = Origin.from_json(
            {**measured, **{key: head.get(key) for key in ("device", "versions", "date")}}
        )
    except TableError:
        raise
    except (OSError, LookupError, ValueError, AttributeError, RecursionError) as error:
        raise TableError(
            f"cannot read the kit's results {str(path)!r}: {first_line(error)}."
        ) from error
    known = journal.networks
    lacking = sum(widths not in known for widths in spread(structure))
    if lacking:
        raise TableError(
            f"the results in {str(path)!r} lack {lacking} whole networks: the kit has not measured "
            "all yet; run it on the device again, it goes on where it was."
        )
    return build_table(structure, conditions, origin, journal, EVERYWHERE)


def _head(structure: Structure, inputs: Tensor, conditions: Conditions) -> dict[str, Any]:
    """Return what a kit and its results begin with."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "conditions": conditions.to_json(),
        "subject": subject(structure, inputs),
    }


def _check_head(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    if (found["format"], found["version"]) != (FORMAT, VERSION):
        raise TableError(f"{str(path)!r} holds no results of a kit of version {VERSION}.")
    if found["conditions"] != wanted["conditions"]:
        raise TableError(
            f"the results in {str(path)!r} were measured with {str(found['conditions'])[:300]}: "
            "give the same options as to --kit."
        )
    if found["subject"] != wanted["subject"]:
        raise TableError(
            f"the results in {str(path)!r} are of another network or input size: give the --model "
            "and --input-shape that the kit was written for."
        )


def _unknown(signature: Signature) -> None:
    """Nothing is measured when a kit is written."""

"""Writes kits: for the latency table of a network, and for the winner of a search."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.core.policy import Widths
from autoprune.core.records import plain
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.signature import Signature, families
from autoprune.data.forms import Inputs, described, tensors
from autoprune.errors import UsageError
from autoprune.profiling.backends.onnx import exported, provider
from autoprune.profiling.backends.onnx_files import layer_model, with_light_weights
from autoprune.profiling.grid import wanted
from autoprune.profiling.kit.contents import (
    CODE,
    MODELS,
    OF_LAYERS,
    OF_WINNER,
    README,
    TASKS,
    header,
)
from autoprune.profiling.profiler import reference_layer
from autoprune.profiling.sampling import EXHAUSTIVE
from autoprune.profiling.subject import Subject, spread_widths
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import sample


@dataclass(frozen=True, eq=False)
class KitTask:
    """A model that a kit measures.

    Attributes:
        content: The serialised ONNX model.
        shape: The shape of its input.
        key: What identifies it in the results.
    """

    content: bytes
    shape: tuple[int, ...]
    key: Mapping[str, Any]


def write_kit(folder: Path, subject: Subject, conditions: Conditions) -> int:
    """Write a kit for a latency table and return the number of models in it.

    Raises:
        UsageError: The folder is not empty, or the network cannot be measured by a kit.
    """
    inputs, structure = sample(subject.inputs, conditions.batch), subject.structure
    networks = ((subject.cut_to(widths), widths) for widths in spread_widths(structure))
    tasks = chain(_layers(structure, conditions), _networks(networks, inputs, conditions))
    return _write(folder, tasks, header(subject.identity, conditions), OF_LAYERS)


def write_winner(
    folder: Path,
    networks: Sequence[tuple[nn.Module, Widths]],
    inputs: Inputs,
    identity: Mapping[str, Any],
    conditions: Conditions,
) -> None:
    """Write a kit that measures some networks in turn.

    Args:
        folder: The folder to write.
        networks: The networks and their widths, the dense one first.
        inputs: One sample or more.
        identity: What tells the run from all others.
        conditions: The conditions to measure under.

    Raises:
        UsageError: The folder is not empty, or the networks cannot be measured by a kit.
    """
    tasks = _networks(networks, sample(inputs, conditions.batch), conditions)
    _write(folder, tasks, header(identity, conditions), OF_WINNER)


def _layers(structure: Structure, conditions: Conditions) -> Iterator[KitTask]:
    def nothing_is_measured_yet(signature: Signature) -> None:
        return None

    layers = families(structure)
    needed = wanted(layers, nothing_is_measured_yet, EXHAUSTIVE)
    # The runner measures all others beside the first of a kind.
    for signature in dict.fromkeys([reference_layer(layers), *needed]):
        content = layer_model(signature, conditions.batch, conditions.dtype)
        shape = signature.input_shape(conditions.batch)
        yield KitTask(content, shape, {"layer": plain(signature)})


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


def _write(folder: Path, models: Iterable[KitTask], head: Mapping[str, Any], readme: str) -> int:
    """Write a folder and return the number of models in it."""
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"--kit {str(folder)!r} is not empty: choose another folder.")
    models = list(models)  # a network that cannot be exported leaves no folder behind
    (folder / MODELS).mkdir(parents=True, exist_ok=True)
    tasks: list[dict[str, Any]] = []
    for model in models:
        name = f"{MODELS}/{len(tasks):05d}.onnx"
        (folder / name).write_bytes(model.content)
        tasks.append({"file": name, "shape": list(model.shape), **model.key})
    known = {**head, "provider": provider(head["conditions"]["device"])}
    (folder / TASKS).write_text(json.dumps({**known, "tasks": tasks}))
    for name in CODE:
        (folder / name).write_text(_source(name), encoding="utf-8")
    (folder / README).write_text(readme, encoding="utf-8")
    return len(tasks)


def _source(name: str) -> str:
    """Return the code of a file of the kit, which imports its siblings instead of autoprune."""
    package, _, module = CODE[name].rpartition(".")
    source = files(package).joinpath(f"{module}.py").read_text("utf-8")
    for other, place in CODE.items():
        source = source.replace(f"from {place} import", f"from {Path(other).stem} import")
    return source

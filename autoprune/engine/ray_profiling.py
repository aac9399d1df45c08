"""Latency tables of a Ray cluster's nodes, each measured by an actor that has its node alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any, TypeAlias

from msgspec.structs import replace
from torch import nn

from autoprune.core.progress import Progress
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.signature import Signature
from autoprune.cost.latency.table import LatencyTable
from autoprune.data.forms import Inputs
from autoprune.engine.ray_cluster import Cluster, joined, placed, why_dead
from autoprune.errors import AutopruneError, MeasuringError, UsageError, WorkerError, describe
from autoprune.profiling.backends.base import Backend
from autoprune.profiling.backends.registry import backend_class
from autoprune.profiling.host import measure_table
from autoprune.profiling.stopwatch import Run, Timing
from autoprune.profiling.subject import Subject


@dataclass(frozen=True)
class Node:
    """A node of a cluster.

    Attributes:
        id: Ray's.
        name: as the user named it, or its host's; no two are equal, and files may be called so.
        cores: all that Ray gives away there.
    """

    id: str
    name: str
    cores: float


Outcome: TypeAlias = LatencyTable | AutopruneError | None
"""A node's table, or why there is none; None if its file was there already."""


def measure_nodes(
    subject: Subject, conditions: Conditions, address: str, output: Path, progress: Progress
) -> dict[Path, Outcome]:
    """Measure the latency tables of all nodes at once, into files beside each other.

    A node is measured as soon as nothing else runs there. What was measured of a node is kept here,
    as by `measure_table`, so that the same call goes on after an interruption.

    Args:
        subject: The network.
        conditions: The conditions to measure under; threads that are None are each node's own.
        address: The cluster's, as in `joined`.
        output: With the name of a node before its suffix, the file of that node's table.
        progress: Told how far all nodes are together.

    Returns:
        What became of each node, by the file of its table.

    Raises:
        UsageError: The cluster cannot be joined, or no node has the device.
    """
    with joined(address, _kind(conditions.device)) as cluster:
        assert cluster is not None
        if not (nodes := nodes_of(cluster)):
            raise UsageError(f"no node of the Ray cluster has {conditions.device!r} and a core.")
        paths = [output.with_name(f"{output.stem}-{one.name}{output.suffix}") for one in nodes]
        together = _Together(progress)
        with ThreadPoolExecutor(len(nodes)) as pool, ExitStack() as actors:
            pending = []
            for node, path in zip(nodes, paths, strict=True):
                own = actors.enter_context(_on(cluster, node))
                pending.append(pool.submit(_measure, subject, conditions, own, path, together))
            return {path: one.result() for path, one in zip(paths, pending, strict=True)}


def nodes_of(cluster: Cluster) -> list[Node]:
    """Return the nodes that are alive and have what a worker needs, by name."""
    found: list[Node] = []
    alive = [node for node in cluster.ray.nodes() if node["Alive"]]
    for node in sorted(alive, key=lambda one: (_name(one), one["NodeID"])):
        if not cluster.has_room(node["Resources"]):
            continue
        name, taken = _name(node), {one.name for one in found}
        numbered = (f"{name}-{number}" for number in range(2, len(alive) + 2))
        free = next(one for one in (name, *numbered) if one not in taken)
        found.append(Node(node["NodeID"], free, node["Resources"]["CPU"]))
    return found


def _name(node: Mapping[str, Any]) -> str:
    """Return the name that a node was started with, or its host's: by default it is the address."""
    named, host = node.get("NodeName"), node["NodeManagerHostname"]
    chosen = named if named and named != node["NodeManagerAddress"] else host
    return re.sub(r"[^\w.]+", "-", chosen).strip("-.") or "node"


def _kind(device: str) -> str:
    """Return the kind of a device, which may be called as a provider of ONNX Runtime."""
    return device if device.startswith("cuda:") else "cuda" if "cuda" in device.lower() else "cpu"


Begun: TypeAlias = tuple[Conditions, str, dict[str, str]]
"""The conditions with the node's own threads, its device, and the versions there."""


class NodeWorker:
    """Runs a backend in a process on a node, which has the node's cores."""

    def begin(self, content: Any, conditions: Conditions) -> Begun:
        """Make the backend, of a class that was placed; say what it measures with, and on what."""
        kind = placed(content)
        if conditions.threads is None:
            conditions = replace(conditions, threads=kind.default_threads())
        self._backend: Backend = kind(conditions)
        self._open = ExitStack()
        self._open.enter_context(self._backend.session())
        return conditions, self._backend.device_name(), dict(self._backend.versions())

    def measure(self, content: Any) -> list[Timing]:
        """Make runs, of what the cluster placed, and measure them."""
        makers: Sequence[Callable[[Backend], Run]] = placed(content)
        return self._backend.measure([make(self._backend) for make in makers])


@dataclass(frozen=True, eq=False)
class _NodeRun:
    """A run on a node: what makes it there. Called, it is measured once, with the usual repeats."""

    backend: NodeBackend
    make: Callable[[Backend], Run]

    def __call__(self) -> None:
        self.backend.measure([self])


class NodeBackend(Backend):
    """A backend whose runs are made and measured on a node."""

    name = "node"

    def __init__(self, cluster: Cluster, actor: Any, conditions: Conditions) -> None:
        """Begin on a node; waits until its actor has the node for itself.

        Raises:
            MeasuringError: The actor died, or cannot begin.
            UsageError: The backend or its device cannot be used there.
        """
        self._cluster, self._actor = cluster, actor
        kind = cluster.place(backend_class(conditions.backend))
        try:
            begun: Begun = self._answer(actor.begin.remote(kind, conditions))
        except AutopruneError:
            raise
        except Exception as error:  # whatever a backend or what it imports raises
            raise MeasuringError(f"the node cannot begin ({describe(error)})") from error
        own, self._device, self._versions = begun
        super().__init__(own)

    def layer(self, signature: Signature) -> Run:
        """Return a run of one layer."""
        return _NodeRun(self, methodcaller("layer", signature))

    def network(self, model: nn.Module, inputs: Inputs) -> Run:
        """Return a run of a network."""
        return _NodeRun(self, methodcaller("network", model, inputs))

    def measure(self, runs: Sequence[Any]) -> list[Timing]:
        """Return how long each run takes there."""
        makers = self._cluster.place([one.make for one in runs])
        timings: list[Timing] = self._answer(self._actor.measure.remote(makers))
        return timings

    def device_name(self) -> str:
        """Return the name of the node's processor."""
        return self._device

    def versions(self) -> Mapping[str, str]:
        """Return the versions of the libraries in use there."""
        return self._versions

    def _answer(self, reference: Any) -> Any:
        ray = self._cluster.ray
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise WorkerError(f"the node's worker died: {why_dead(error)}") from error


@contextmanager
def _on(cluster: Cluster, node: Node) -> Iterator[Callable[[Conditions], NodeBackend]]:
    """Give what begins on a node; its actor is given up afterwards, whatever it does."""
    actor = cluster.actor_on(NodeWorker, node.id, node.cores).remote()
    try:
        yield lambda conditions: NodeBackend(cluster, actor, conditions)
    finally:
        cluster.ray.kill(actor)


def _measure(
    subject: Subject,
    conditions: Conditions,
    begin: Callable[[Conditions], NodeBackend],
    path: Path,
    progress: _Together,
) -> Outcome:
    """Return what becomes of a node: whatever goes wrong there, the others go on."""
    if path.exists():
        return None
    try:
        return measure_table(subject, begin(conditions), path, progress.of(path))
    except AutopruneError as error:
        return error


class _Together:
    """How far several measurements of unknown length are together."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._counts: dict[Path, tuple[int, int]] = {}

    def of(self, path: Path) -> Progress:
        """Return what one of them tells."""
        return _Part(self, path)

    def step(self, path: Path, stage: str, done: int, total: int) -> None:
        """Tell of all."""
        self._counts[path] = done, total
        counts = list(self._counts.values())
        self._progress.step(stage, *map(sum, zip(*counts, strict=True)))


class _Part(Progress):
    def __init__(self, whole: _Together, path: Path) -> None:
        self._whole, self._path = whole, path

    def step(self, stage: str, done: int, total: int) -> None:
        self._whole.step(self._path, stage, done, total)

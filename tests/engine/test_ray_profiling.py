"""Tables of a cluster's nodes: Ray's calls are played by plain ones, and once it is real."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.core.progress import Progress
from autoprune.core.records import plain
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.table import LatencyTable
from autoprune.engine import ray_profiling
from autoprune.engine.ray_cluster import Cluster
from autoprune.engine.ray_profiling import measure_nodes, nodes_of
from autoprune.errors import AutopruneError, MeasuringError, UsageError
from autoprune.profiling.subject import Subject
from autoprune.structure.tracing.trace import trace

IMAGE = torch.randn(1, 3, 8, 8)
STAIRS = Conditions(backend="stairs", threads=None)


class WorkerDied(Exception):
    """As Ray tells it."""


class TaskError(Exception):
    """What an actor raised, with that as its cause."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Played(Cluster):
    """A cluster whose actors do at once, in this process, what they are asked for.

    Attributes:
        lost: numbers of nodes whose actors die once they have begun.
        killed: actors.
    """

    def __init__(self, nodes: list[dict[str, Any]], gpus: float = 0.0) -> None:
        errors = SimpleNamespace(RayTaskError=TaskError, RayError=WorkerDied)
        self.killed: list[Any] = []
        ray = SimpleNamespace(
            nodes=lambda: nodes, get=lambda done: done(), kill=self._kill, exceptions=errors
        )
        super().__init__(ray, gpus)
        self.lost: set[str] = set()
        self.cores: dict[str, float] = {}

    def _kill(self, actor: Any) -> None:
        self.killed.append(actor)

    def place(self, subject: Any) -> Any:
        return subject

    def actor_on(self, plain: type, node: str, cores: float) -> Any:
        self.cores[node] = cores
        own = plain()

        def asked(call: Any) -> Any:
            def done(*args: Any) -> Any:
                try:
                    return call(*args)
                except Exception as error:
                    raise TaskError(error) from error

            return SimpleNamespace(remote=lambda *args: lambda: done(*args))

        def measure(content: Any) -> Any:
            if node in self.lost:
                raise WorkerDied("The actor died: its node is gone.")
            return asked(own.measure).remote(content)()

        actor = SimpleNamespace(
            begin=asked(own.begin), measure=SimpleNamespace(remote=lambda c: lambda: measure(c))
        )
        return SimpleNamespace(remote=lambda: actor)


def node(number: int, host: str, name: str | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "NodeID": str(number),
        "Alive": True,
        "NodeName": name or "10.0.0.1",
        "NodeManagerHostname": host,
        "NodeManagerAddress": "10.0.0.1",
        "Resources": {"CPU": 4.0},
        **changes,
    }


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, stairs: Any) -> Played:
    """Two nodes, each a device whose latencies are known."""
    played = Played([node(1, "a"), node(2, "b", Resources={"CPU": 2.0})])

    @contextmanager
    def joined(address: str, device: str) -> Iterator[Cluster]:
        assert address == "head:1" and device == "cpu"
        yield played

    monkeypatch.setattr(ray_profiling, "joined", joined)
    monkeypatch.setattr(ray_profiling, "placed", lambda content: content)
    monkeypatch.setattr(ray_profiling, "backend_class", lambda name: stairs)
    return played


def measured(output: Path) -> dict[str, Any]:
    model = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 10, 1))
    subject = Subject(model, trace(model, IMAGE), IMAGE)
    found = measure_nodes(subject, STAIRS, "head:1", output, Progress())
    return {path.name: outcome for path, outcome in found.items()}


def test_every_node_has_the_table_that_it_would_measure_itself(
    cluster: Played, tmp_path: Path
) -> None:
    found = measured(tmp_path / "latency.json")
    assert list(found) == ["latency-a.json", "latency-b.json"] and cluster.cores == {"1": 4, "2": 2}
    for name, table in found.items():
        assert isinstance(table, LatencyTable) and table.origin.device == "staircase"
        assert table.conditions.threads == torch.get_num_threads()  # the device's own
        assert plain(LatencyTable.load(tmp_path / name)) == plain(table)
    assert len(cluster.killed) == 2 and not list(tmp_path.glob("*.part"))


def test_a_lost_node_does_not_stop_the_others_and_is_measured_later(
    cluster: Played, tmp_path: Path
) -> None:
    cluster.lost.add("1")
    found = measured(tmp_path / "latency.json")
    assert isinstance(found["latency-b.json"], LatencyTable)
    assert isinstance(found["latency-a.json"], MeasuringError)
    assert "worker died" in str(found["latency-a.json"]) and len(cluster.killed) == 2
    cluster.lost.clear()
    found = measured(tmp_path / "latency.json")
    assert isinstance(found["latency-a.json"], LatencyTable) and found["latency-b.json"] is None


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (UsageError("no such device here"), UsageError, "^no such device here$"),
        (ImportError("no module named stairs"), MeasuringError, "cannot begin .*named stairs"),
    ],
)
def test_a_node_that_cannot_begin_says_why(
    error: Exception,
    kind: type[AutopruneError],
    said: str,
    cluster: Played,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(conditions: Conditions) -> None:
        raise error

    failing.default_threads = lambda: 1  # type: ignore[attr-defined]
    monkeypatch.setattr(ray_profiling, "backend_class", lambda name: failing)
    for outcome in measured(tmp_path / "latency.json").values():
        assert isinstance(outcome, kind)
        with pytest.raises(kind, match=said):
            raise outcome


def test_nodes_are_called_as_the_user_or_their_host_is() -> None:
    nodes = [
        node(4, "host"), node(3, "host"), node(1, "host", "rack 7/left"), node(2, "x", Alive=False),
        node(5, "no-core", Resources={}),
    ]  # fmt: skip
    found = [(one.id, one.name) for one in nodes_of(Played(nodes))]
    assert found == [("3", "host"), ("4", "host-2"), ("1", "rack-7-left")]


def test_only_nodes_with_the_device_are_measured() -> None:
    nodes = [node(1, "a"), node(2, "b", Resources={"CPU": 1.0, "GPU": 1.0})]
    assert [one.name for one in nodes_of(Played(nodes, gpus=1.0))] == ["b"]


def test_no_node_with_the_device_is_refused(cluster: Played, tmp_path: Path) -> None:
    cluster.ray.nodes = lambda: [node(1, "a", Resources={})]
    with pytest.raises(UsageError, match=r"^no node of the Ray cluster has 'cpu' and a core\.$"):
        measured(tmp_path / "latency.json")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_two_nodes_of_a_real_cluster(tmp_path: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster as Local

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 10, 1))
    subject = Subject(model, trace(model, IMAGE), IMAGE)
    nodes = Local(initialize_head=True, head_node_args={"num_cpus": 1, "node_name": "first"})
    try:
        nodes.add_node(num_cpus=1, node_name="second")
        output = tmp_path / "latency.json"
        found = measure_nodes(subject, Conditions(threads=None), nodes.address, output, Progress())
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert [path.name for path in found] == ["latency-first.json", "latency-second.json"]
    assert all(isinstance(one, LatencyTable) for one in found.values())

"""What is refused before a Ray cluster is joined, and how many workers a search has."""

from __future__ import annotations

import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from autoprune.engine.ray_cluster import Cluster, check_ray, joined, with_workers
from autoprune.errors import UsageError
from autoprune.options.search import SearchConfig


def config(**options: Any) -> SearchConfig:
    return SearchConfig.from_mapping({"budget": "flops=0.5", **options})


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is taken for installed: nothing of it is called here."""
    if "ray" not in sys.modules:
        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())


@pytest.mark.usefixtures("installed")
def test_an_address_that_nobody_answers_at_is_refused_at_once() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(UsageError, match=rf"{address}.*cannot be joined .*refused") as refused:
        check_ray(address)
    assert len(str(refused.value).splitlines()) == 1


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"ray.*pip install .*autoprune\[ray\]"):
        check_ray("local")


@pytest.mark.parametrize("address", ["nonsense", "host:port", "http://a:1", "", "a b:1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="no address of a Ray cluster"):
        config(ray=address)


@pytest.mark.parametrize("share", [-0.5, 1.5, float("nan"), float("inf")])
def test_a_share_that_ray_does_not_know_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="gpus_per_worker must be from 0 to 1, or whole"):
        config(ray=True, gpus_per_worker=share)


def test_shares_of_gpus_need_a_cluster() -> None:
    with pytest.raises(UsageError, match="gpus_per_worker needs ray"):
        check_ray(None, 0.5)


def test_true_and_false_are_a_cluster_here_and_none() -> None:
    assert config(ray=True).ray == "local" and config(ray=False).ray is None


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("share", "device", "what"), [(0.5, "cpu", "need no GPU"), (0.0, "cuda:0", "need a share")]
)
def test_workers_are_where_the_network_is(share: float, device: str, what: str) -> None:
    with (
        pytest.raises(UsageError, match=what),
        joined("local", device, share),
    ):
        pass


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("device", ["cuda:1", "xpu:3"])
def test_a_gpu_that_workers_do_not_see_is_refused(device: str) -> None:
    with (
        pytest.raises(UsageError, match=rf"is on '{device}', .* put it on 'cuda:0'") as refused,
        joined("local", device),
    ):
        pass
    assert len(str(refused.value).splitlines()) == 1


def cluster(gpus_per_worker: float = 0.0, **resources: float) -> Cluster:
    node = {"Alive": True, "Resources": resources}
    ray = SimpleNamespace(
        cluster_resources=lambda: resources,
        available_resources=lambda: {"CPU": 1.0},  # others work there, too; no GPU is free
        nodes=lambda: [node],
    )
    return Cluster(ray, gpus_per_worker)


@pytest.mark.parametrize(
    ("gpus_per_worker", "resources", "room", "sharing"),
    [
        (0.0, {"CPU": 8.0}, 8, 8),
        (0.25, {"CPU": 16.0, "GPU": 2.0}, 8, 4),
        (1.0, {"CPU": 1.0, "GPU": 2.0}, 1, 1),
        (2.0, {"CPU": 8.0, "GPU": 4.0}, 2, 1),
        (1.0, {"CPU": 8.0}, 0, 1),
    ],
)
def test_room_follows_from_cores_and_gpus(
    gpus_per_worker: float, resources: dict[str, float], room: int, sharing: int
) -> None:
    one = cluster(gpus_per_worker, **resources)
    assert (one.room, one.sharing) == (room, sharing)


@pytest.mark.parametrize(
    ("options", "on", "workers", "at_once"),
    [
        ({}, None, 1, 1),
        ({"workers": 3}, None, 3, 3),
        ({"workers": 3, "at_once": 8}, None, 3, 8),
        ({"at_once": 4}, cluster(CPU=2.0), 2, 4),
        ({"workers": 64}, cluster(CPU=2.0), 64, 64),
    ],
)
def test_numbers_of_workers_and_candidates(
    options: dict[str, int], on: Cluster | None, workers: int, at_once: int
) -> None:
    found = with_workers(config(**options), on)
    assert (found.workers, found.at_once) == (workers, at_once)


@pytest.mark.parametrize(
    ("options", "on", "said"),
    [
        ({}, cluster(CPU=8.0), "room for 1 worker of 8 now; the others begin when there is"),
        ({"workers": 1}, cluster(CPU=8.0), "room for 1 worker"),
        ({}, cluster(1.0, CPU=8.0, GPU=2.0), "room for 0 workers of 2 now"),
    ],
)
def test_the_room_that_is_free_now_is_told(
    options: dict[str, int], on: Cluster, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "autoprune"):
        with_workers(config(**options), on)
    assert said in caplog.text and (" of " in caplog.text) is (" of " in said)


def test_without_the_option_nothing_is_joined() -> None:
    with joined(None, "cpu") as none:
        assert none is None

"""The Ray cluster that a search works on: one on this machine, or one that the user started."""

from __future__ import annotations

import io
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pickle import PicklingError
from typing import Any

import numpy as np
import torch

from autoprune.core.lazy import require
from autoprune.core.plugins import modules_of_files
from autoprune.errors import UsageError, counted, first_line, spelt
from autoprune.options.kinds import LOCAL
from autoprune.options.search import SearchConfig

# Seconds to wait for whether anybody answers at an address.
PATIENCE = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Cluster:
    """A cluster that this process has joined.

    Attributes:
        ray: the package.
        gpus_per_worker: the share of a GPU that each worker gets; none on a CPU.
    """

    ray: Any
    gpus_per_worker: float

    @cached_property
    def room(self) -> int:
        """Workers that the cluster has room for, each with a processor core."""
        return self._room_in(self.ray.cluster_resources())

    @property
    def free(self) -> int:
        """Those of them that nobody else's work takes the room of at the moment."""
        return self._room_in(self.ray.available_resources())

    def has_room(self, has: Mapping[str, float]) -> bool:
        """Whether a worker finds what it needs among some resources."""
        return self._room_in(has) > 0

    def _room_in(self, has: Mapping[str, float]) -> int:
        return int(min(has.get("CPU", 0.0), self._by_gpu(has.get("GPU", 0.0))))

    @cached_property
    def sharing(self) -> int:
        """Workers that may share the memory of a GPU, or of the largest node."""
        if self.gpus_per_worker:
            return max(1, int(self._by_gpu(1.0)))
        cores = (node["Resources"].get("CPU", 0.0) for node in self.ray.nodes() if node["Alive"])
        return max(1, int(max(cores, default=1.0)))

    def _by_gpu(self, gpus: float) -> float:
        return gpus / self.gpus_per_worker if self.gpus_per_worker else float("inf")

    def actor_class(self, plain: type) -> Any:
        """Return the class of actors that do what objects of a plain one do.

        They are not restarted, nor is their work repeated, by Ray: work that was begun on an actor
        without room on another node would wait for it.
        """
        return self.ray.remote(plain).options(num_cpus=1, num_gpus=self.gpus_per_worker)

    def actor_on(self, plain: type, node: str, cores: float) -> Any:
        """Return the class of actors that have so many cores of one node to themselves."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node, soft=False)
        return self.ray.remote(plain).options(
            num_cpus=cores, num_gpus=self.gpus_per_worker, scheduling_strategy=there
        )

    def place(self, subject: Any) -> Any:
        """Put something into the object store, once for all workers.

        Classes and functions of Python files that the user named go with it. PyTorch writes it,
        which keeps tensors of one storage together: pickled by themselves, every batch would take
        all images with it.

        Returns:
            The reference of bytes that `placed` reads.

        Raises:
            UsageError: something in it cannot be pickled.
        """
        for module in modules_of_files():
            self.ray.cloudpickle.register_pickle_by_value(module)
        buffer = io.BytesIO()
        try:
            torch.save(subject, buffer, pickle_module=self.ray.cloudpickle)
        except (TypeError, AttributeError, PicklingError) as error:
            raise UsageError(
                f"the network or a function of yours cannot be sent to Ray workers "
                f"({first_line(error)}): make what cannot be pickled (locks, open files, "
                "generators) where it is used."
            ) from error
        return self.ray.put(np.frombuffer(buffer.getbuffer(), dtype=np.uint8))


def placed(content: np.ndarray[Any, np.dtype[np.uint8]]) -> Any:
    """Return what was placed: nothing but what this cluster's own driver has sent is read."""
    return torch.load(io.BytesIO(content.data), weights_only=False)


def check_ray(address: str | None, gpus_per_worker: float | None = None) -> None:
    """Refuse a cluster that cannot be joined, without joining it.

    Raises:
        UsageError: Ray is not installed, or nobody answers at the address.
    """
    if address is None:
        if gpus_per_worker is not None:
            raise UsageError(f"{spelt('gpus_per_worker')} needs {spelt('ray')}.")
        return
    require(spelt("ray"), "ray", "ray")
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if host:
        try:
            socket.create_connection((host, int(port)), PATIENCE).close()
        except OSError as error:
            raise _not_joined(address, error) from error


def why_dead(error: BaseException) -> str:
    """Return why a worker died: Ray's texts are long, and their reason is not in the first line."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line.startswith("The actor died") or "exit detail" in line]
    return first_line(RuntimeError(told[-1])) if told else first_line(error)


@contextmanager
def joined(
    address: str | None, device: str, gpus_per_worker: float | None = None
) -> Iterator[Cluster | None]:
    """Join a cluster, and leave it; None without an address.

    A process that has joined one already stays in that.

    Args:
        address: as the option `ray` has it.
        device: of the network.
        gpus_per_worker: a whole one by default, if the network is on a GPU.

    Raises:
        UsageError: it cannot be joined, or has no room for a worker.
    """
    if address is None:
        yield None
        return
    check_ray(address)
    share = _gpus(gpus_per_worker, device)
    import ray

    is_ours = not ray.is_initialized()
    if is_ours:
        _join(ray, address)
    try:
        cluster = Cluster(ray, share)
        if not cluster.room:
            need = f" and {cluster.gpus_per_worker:g} of a GPU" * bool(cluster.gpus_per_worker)
            raise UsageError(
                "no node of the Ray cluster has room for a worker: it needs a processor "
                f"core{need}."
            )
        yield cluster
    finally:
        if is_ours:
            ray.shutdown()


def with_workers(config: SearchConfig, cluster: Cluster | None) -> SearchConfig:
    """Return the options with numbers of workers and of candidates at once, if they lack these."""
    room = 1 if cluster is None else cluster.room
    workers = config.workers or room
    if cluster is not None:
        free = min(cluster.free, workers)
        missing = f" of {workers} now; the others begin when there is" if workers > free else ""
        log.info("Ray: room for %s%s", counted(free, "worker"), missing)
    return replace(config, workers=workers, at_once=config.at_once or workers)


def _join(ray: Any, address: str) -> None:
    # A cluster that is started for one search sends no statistics to Ray's makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == LOCAL:
            ray.init(address=LOCAL, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except Exception as error:  # a bare one where a node starts too slowly
        raise _not_joined(address, error) from error


def _not_joined(address: str, error: Exception) -> UsageError:
    if address == LOCAL:
        return UsageError(
            f"{spelt('ray')}: no cluster can be started on this machine ({first_line(error)})."
        )
    return UsageError(
        f"{spelt('ray', address)}: the cluster cannot be joined ({first_line(error)}); start one "
        f"with `ray start --head`, join this machine with `ray start --address HOST:PORT`, or use "
        f"this machine alone with {spelt('ray', LOCAL)}."
    )


def _gpus(wanted: float | None, device: str) -> float:
    """Return the share of a GPU that a worker gets.

    Raises:
        UsageError: the network is on a GPU and workers are to have none, or the reverse; or it is
            on another than the first.
    """
    if device.partition(":")[2] not in ("", "0"):
        raise UsageError(
            f"the network is on {device!r}, but with {spelt('ray')} Ray gives every worker a GPU "
            "of its own, the first that it sees: put it on 'cuda:0'."
        )
    on_gpu = not device.startswith("cpu")
    share = float(on_gpu) if wanted is None else wanted
    if bool(share) != on_gpu:
        raise UsageError(
            f"{spelt('gpus_per_worker')} is {share:g}, but the network is on {device!r}: "
            f"{'workers need a share of a GPU' if on_gpu else 'workers need no GPU'}."
        )
    return share

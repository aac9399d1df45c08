"""Work on the actors of a Ray cluster."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from autoprune.core.allocator import kept_memory
from autoprune.core.precision import fresh_casts
from autoprune.engine.executors import MOST_DEATHS, Executor, Pending, Result, Subject, Submit, Work
from autoprune.engine.ray_cluster import Cluster, placed, why_dead
from autoprune.errors import UsageError, WorkerError, describe, first_line

_CANNOT_BEGIN = (
    "no worker of the Ray cluster can begin ({}): every node needs autoprune and whatever your "
    "network, data and functions import."
)


class RayWorker:
    """Does pieces of work in a process of its own, with one PyTorch thread.

    One thread, however many workers there are: the number of threads decides how sums are rounded.
    """

    def begin(self, content: Any, settings: Settings) -> None:
        """Take what the work is on, as the cluster placed it."""
        self._subject = placed(content)
        self._open = ExitStack()
        self._open.enter_context(kept_memory())
        self._open.enter_context(fresh_casts())
        torch.set_num_threads(1)
        settings.use()

    def do(self, work: Work[Result]) -> Result:
        """Do a piece of work."""
        return work(self._subject)


@dataclass(frozen=True)
class Settings:
    """What PyTorch computes with in this process, besides the number of threads."""

    dtype: torch.dtype = field(default_factory=torch.get_default_dtype)
    matmul: str = field(default_factory=torch.get_float32_matmul_precision)
    tf32: bool = field(default_factory=lambda: torch.backends.cudnn.allow_tf32)
    deterministic: bool = field(default_factory=torch.are_deterministic_algorithms_enabled)

    def use(self) -> None:
        """Compute so in this process."""
        torch.set_default_dtype(self.dtype)
        torch.set_float32_matmul_precision(self.matmul)
        torch.backends.cudnn.allow_tf32 = self.tf32
        torch.use_deterministic_algorithms(self.deterministic)


@dataclass(eq=False)
class _Piece:
    """A piece of work on its way.

    Attributes:
        work: what is to be done.
        timeout: seconds that it may take.
        late: when it must be done, in `time.monotonic` seconds; infinite as long as it waits.
        deaths: workers that died at it.
        outcome: returns or raises what came of it; None as long as nothing did.
    """

    work: Work[Any]
    timeout: float
    late: float = math.inf
    deaths: int = 0
    outcome: Pending[Any] | None = None


class RayExecutor(Executor[Subject]):
    """Works on actors, of which Ray starts as many as its nodes have room for.

    The subject lies in Ray's object store once. Actors that find no room begin when a node joins.
    One that dies, or is killed since its work takes too long, is replaced by another; its work is
    asked for again. What a worker is given depends on none of this, and neither do the results.
    """

    def __init__(self, cluster: Cluster, subject: Subject, workers: int) -> None:
        """Place the subject, and ask Ray for actors; `close` gives them up."""
        self._ray: Any = cluster.ray
        self._actor = cluster.actor_class(RayWorker)
        self.subject, self._placed = subject, cluster.place(subject)
        self.workers = self.places = workers
        self._waiting: deque[_Piece] = deque()
        self._starting: dict[Any, Any] = {}  # reference of `begin`, or of nothing to do → actor
        self._working: dict[Any, tuple[Any, _Piece]] = {}  # reference of `do` → actor, work
        self._idle: list[Any] = []
        self._failed_starts = 0
        for _ in range(workers):
            self._start()

    @property
    def busy(self) -> int:
        """Workers that have something to do."""
        return len(self._working)

    @contextmanager
    def opened(self, timeout: float | None = None) -> Iterator[Submit]:
        """Give what begins pieces of work; a worker whose work takes too long is killed."""
        longest = math.inf if timeout is None else timeout

        def submit(work: Work[Result], *, alone: bool = False) -> Pending[Result]:
            piece = _Piece(work, longest)
            self._waiting.append(piece)
            self._go_on(wait=False)
            return partial(self._result, piece)

        yield submit

    def close(self) -> None:
        """Give up all actors, whatever they do."""
        working = (actor for actor, _ in self._working.values())
        for actor in (*self._starting.values(), *working, *self._idle):
            self._ray.kill(actor)
        for known in (self._starting, self._working, self._idle):
            known.clear()

    def _result(self, piece: _Piece) -> Any:
        try:
            while piece.outcome is None:
                self._go_on(wait=True)
        except SystemExit as error:  # what Ray makes of SIGTERM; user code raises none here
            raise KeyboardInterrupt from error
        return piece.outcome()

    def _go_on(self, wait: bool) -> None:
        """Take up what is done, and hand out what waits.

        Args:
            wait: for something to be done, or late.
        """
        self._hand_out()
        references = [*self._starting, *self._working]
        if wait:
            self._ray.wait(references, num_returns=1, timeout=self._until_late())
        # All that is done is taken before what is late is ended: its time may be over, too.
        done, _ = self._ray.wait(references, num_returns=len(references), timeout=0.0)
        is_lost = False
        for reference in done:
            if reference in self._starting:
                self._started(reference)
            elif not self._finished(reference):
                is_lost = True
        if is_lost:
            self._ask_idle()
        self._end_late()
        self._hand_out()

    def _hand_out(self) -> None:
        while self._idle and self._waiting:
            actor, piece = self._idle.pop(), self._waiting.popleft()
            piece.late = time.monotonic() + piece.timeout
            self._working[actor.do.remote(piece.work)] = actor, piece

    def _start(self) -> None:
        actor = self._actor.remote()
        self._starting[actor.begin.remote(self._placed, Settings())] = actor

    def _started(self, reference: Any) -> None:
        actor = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise UsageError(_CANNOT_BEGIN.format(describe(error.cause))) from error
        except self._ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= MOST_DEATHS * self.workers:
                raise UsageError(_CANNOT_BEGIN.format(first_line(error))) from error
            self._start()
        else:
            self._failed_starts = 0
            self._idle.append(actor)

    def _ask_idle(self) -> None:
        """Let idle workers answer before they are given work: a node takes all of its own along."""
        for actor in self._idle:
            self._starting[actor.do.remote(_nothing)] = actor
        self._idle.clear()

    def _finished(self, reference: Any) -> bool:
        """Take up what came of a piece of work; return whether its worker lives."""
        actor, piece = self._working.pop(reference)
        try:
            piece.outcome = partial(_same, self._ray.get(reference))
        except self._ray.exceptions.RayTaskError as error:
            piece.outcome = partial(_raise, error.cause)
        except self._ray.exceptions.RayError as error:  # the process, its node, or what it returned
            self._start()
            piece.deaths += 1
            if piece.deaths < MOST_DEATHS:
                self._waiting.appendleft(piece)
                return False
            reason = f"{piece.deaths} workers in a row died at it: {why_dead(error)}"
            piece.outcome = partial(_raise, WorkerError(reason))
            return False
        self._idle.append(actor)
        return True

    def _until_late(self) -> float | None:
        late = min((piece.late for _, piece in self._working.values()), default=math.inf)
        return None if math.isinf(late) else max(0.0, late - time.monotonic())

    def _end_late(self) -> None:
        """Kill workers whose work takes too long: nothing else ends code that does not return."""
        now = time.monotonic()
        late = [one for one, (_, piece) in self._working.items() if piece.late <= now]
        for reference in late:
            actor, piece = self._working.pop(reference)
            self._ray.kill(actor)
            self._start()
            piece.outcome = partial(_raise, TimeoutError(f"took longer than {piece.timeout:g} s"))


def _nothing(subject: Any) -> None:
    """Do nothing: what a worker answers that lives."""


def _same(result: Result) -> Result:
    return result


def _raise(error: BaseException) -> Any:
    raise error

"""Where candidates are evaluated: in this process, or on the workers of a Ray cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from autoprune.core.threads import shared_threads, within

# Workers, or processes, that may die at one piece of work, or before they can begin any.
MOST_DEATHS = 3

Subject = TypeVar("Subject")
Result = TypeVar("Result")
Item = TypeVar("Item")

Work: TypeAlias = Callable[[Any], Result]
"""Computes something with the subject of an executor; it can be sent to another process."""
Pending: TypeAlias = Callable[[], Result]
"""Waits for a piece of work, and returns its result or raises what it raised."""


class Submit(Protocol):
    """Begins pieces of work."""

    def __call__(self, work: Work[Result], *, alone: bool = False) -> Pending[Result]:
        """Begin a piece of work, or let it wait for its turn.

        Args:
            work: is given the subject of the executor.
            alone: whether nothing else is done meanwhile: it may have the whole processor.

        Returns:
            What waits for the result. It raises TimeoutError if the work took too long, and
            WorkerError if it killed one worker after the other.
        """
        ...


class Executor(ABC, Generic[Subject]):
    """Does pieces of work on one subject; each result is waited for where it is wanted.

    Results do not depend on how many workers there are, nor on which of them is done first.

    Attributes:
        subject: what the work is on.
        workers: pieces that are done at once.
        places: pieces that are done at once if each is to have all that its place offers: the
            threads of this process share one place.
    """

    subject: Subject
    workers: int
    places: int

    @abstractmethod
    def opened(self, timeout: float | None = None) -> AbstractContextManager[Submit]:
        """Give what begins pieces of work.

        Args:
            timeout: seconds that each may take; None for any time.
        """

    @property
    def busy(self) -> int | None:
        """Workers that have something to do; None where nobody counts them."""
        return None


class LocalExecutor(Executor[Subject]):
    """Works in this process: in this thread with one worker, when the result is wanted."""

    places = 1

    def __init__(self, subject: Subject, workers: int = 1) -> None:
        """Take what the work is on, and the number of threads that share the processor."""
        self.subject, self.workers = subject, workers

    @contextmanager
    def opened(self, timeout: float | None = None) -> Iterator[Submit]:
        """Give what begins pieces of work, each in a thread unless it is alone."""

        def here(work: Work[Result], *, alone: bool = True) -> Pending[Result]:
            call = partial(work, self.subject)
            return call if timeout is None else partial(within, timeout, call)

        if self.workers == 1:
            yield here
            return
        with shared_threads(self.workers) as pool:

            def submit(work: Work[Result], *, alone: bool = False) -> Pending[Result]:
                return here(work) if alone else pool.submit(here(work)).result

            yield submit


def in_order(
    submit: Submit,
    items: Iterable[tuple[Item, Work[Result]]],
    most: int,
    is_over: Callable[[], bool],
) -> Iterator[tuple[Item, Pending[Result]]]:
    """Yield items with what waits for their results; some are begun ahead.

    Args:
        submit: begins the work.
        items: each with its work, which has its place for itself.
        most: pieces of work that are begun and not yet yielded.
        is_over: whether no more are to be begun.
    """
    begun: deque[tuple[Item, Pending[Result]]] = deque()
    for item, work in items:
        if is_over():
            break
        begun.append((item, submit(work, alone=True)))
        if len(begun) == most:
            yield begun.popleft()
    yield from begun

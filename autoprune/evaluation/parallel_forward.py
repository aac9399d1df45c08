"""Forward passes over many batches: on a CPU several batches at once, in threads of their own.

A small network's operators are too short to be shared well among threads; its batches are not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.structure.inputs import Inputs, class_scores, run

# One batch after the other: larger ones measured no faster on a CPU and take more memory.
CPU_BATCH = 125
GPU_BATCH = 500
# Several at once share the work better if they are small, and racing can stop earlier.
PARALLEL_BATCH = 50
# More batches at once would take much memory, and be on their way when racing stops.
MOST_AT_ONCE = 4
# Batches in each thread on which it is tried whether they disturb each other.
TRIED = 2


def in_turn(samples: Samples) -> Iterator[Samples]:
    """Yield samples in batches to be run one after the other."""
    return samples.batches_within(CPU_BATCH if _on_cpu(samples) else GPU_BATCH)


def _on_cpu(samples: Samples) -> bool:
    return samples.device.type == "cpu"


class ParallelForward:
    """Runs networks on fixed samples, on a GPU one batch after the other."""

    def __init__(self, samples: Samples) -> None:
        self._widest = MOST_AT_ONCE if _on_cpu(samples) else 1
        self._samples = samples

    @property
    def width(self) -> int:
        """How many batches are computed at once: no more than PyTorch may use threads here."""
        return min(self._widest, torch.get_num_threads())

    def batches(self) -> list[Samples]:
        """Return the samples as they are run."""
        if self.width == 1:
            return list(in_turn(self._samples))
        return list(self._samples.batches_within(PARALLEL_BATCH, at_once=self.width))

    def check(self, model: nn.Module, expected: Tensor) -> None:
        """Compute one batch at a time from now on if a network's batches disturb each other.

        They can where its forward pass keeps something on a module.

        Args:
            model: a network.
            expected: its outputs, computed one batch after the other.
        """
        try:
            before = _attributes(model)
            with closing(self.outputs(model)) as outputs:
                found = torch.cat(list(islice(outputs, TRIED * self.width)))
            alike = torch.allclose(found, expected[: len(found)], rtol=1e-3, atol=1e-3)
            after = _attributes(model)
            kept = any(before.get(place) is not value for place, value in after.items())
        except Exception:
            alike, kept = False, True
        if kept or not alike:
            self._widest = 1

    def outputs(self, model: nn.Module) -> Generator[Any, None, None]:
        """Yield a network's output (or the class scores in it) for every batch, in order.

        Some are on their way when one is yielded; whoever stops early closes the generator.
        """
        width, batches = self.width, self.batches()
        if width == 1:
            yield from (_run(model, batch.inputs) for batch in batches)
            return
        running: deque[Future[Any]] = deque()
        with shared_threads(width) as pool:
            for batch in batches:
                if len(running) == width:
                    yield running.popleft().result()
                running.append(pool.submit(_run, model, batch.inputs))
            while running:
                yield running.popleft().result()


def _attributes(model: nn.Module) -> dict[tuple[str, str], Any]:
    modules = model.named_modules()
    return {(path, name): value for path, one in modules for name, value in vars(one).items()}


def _run(model: nn.Module, inputs: Inputs) -> Any:
    with torch.no_grad():
        return class_scores(run(model, inputs))


@contextmanager
def shared_threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """Give threads that share PyTorch's among them."""
    within = torch.get_num_threads()
    each = max(1, within // number)
    try:
        with ThreadPoolExecutor(number, "autoprune", _use, (each,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(within)


def _use(threads: int) -> None:
    """Let PyTorch use so many threads where this one computes."""
    # Asked first, PyTorch takes what was set last in any thread, and takes it no more later.
    torch.get_num_threads()
    torch.set_num_threads(threads)

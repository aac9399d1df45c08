"""Forward passes over many batches; on a CPU, several batches in parallel threads.

The operators of a small network are too short to be parallelised well; its batches are not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import closing
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.threads import shared_threads
from autoprune.data import Samples
from autoprune.structure.inputs import Inputs, class_scores, run_pruned

# Sequential batches. On a CPU, larger ones were no faster and take more memory.
CPU_BATCH = 125
GPU_BATCH = 500
# Parallel batches. Small ones balance the load better and let scoring stop earlier.
PARALLEL_BATCH = 50
# More parallel batches would take much memory and be computed in vain when scoring stops early.
MOST_AT_ONCE = 4
# Batches per thread in the test whether parallel passes are independent.
TESTED = 2


def in_turn(samples: Samples) -> Iterator[Samples]:
    """Yield samples in batches for sequential forward passes."""
    return samples.batches_within(CPU_BATCH if _on_cpu(samples) else GPU_BATCH)


def _on_cpu(samples: Samples) -> bool:
    return samples.device.type == "cpu"


class ParallelForward:
    """Runs networks on fixed samples: in parallel batches on a CPU, in sequence on a GPU."""

    def __init__(self, samples: Samples) -> None:
        self._limit = MOST_AT_ONCE if _on_cpu(samples) else 1
        self._samples = samples

    @property
    def width(self) -> int:
        """Number of parallel batches, at most the number of threads that PyTorch may use."""
        return min(self._limit, torch.get_num_threads())

    def batches(self) -> list[Samples]:
        """Return the batches in the order in which they are run."""
        if self.width == 1:
            return list(in_turn(self._samples))
        return list(self._samples.batches_within(PARALLEL_BATCH, at_once=self.width))

    def check(self, model: nn.Module, expected: Tensor) -> None:
        """Switch to sequential batches if a network's parallel passes are not independent.

        That happens if its forward pass stores something on a module.

        Args:
            model: a network.
            expected: its outputs, computed in sequence.
        """
        try:
            before = _attributes(model)
            with closing(self.outputs(model)) as outputs:
                found = torch.cat(list(islice(outputs, TESTED * self.width)))
            alike = torch.allclose(found, expected[: len(found)], rtol=1e-3, atol=1e-3)
            after = _attributes(model)
            kept = any(before.get(place) is not value for place, value in after.items())
        except Exception:
            alike, kept = False, True
        if kept or not alike:
            self._limit = 1

    def outputs(self, model: nn.Module) -> Generator[Any, None, None]:
        """Yield a network's output (or the class scores in it) for every batch, in order.

        Further batches are being computed when one is yielded: close the generator to stop early.
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
        return class_scores(run_pruned(model, inputs))

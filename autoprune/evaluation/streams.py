"""Forward passes over many batches: on a CPU several batches at once, one thread each.

A small network's operators are too short to be shared well among threads; its batches are not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.data import Samples

# One batch after the other: larger ones measured no faster on a CPU and take more memory.
CPU_BATCH = 125
GPU_BATCH = 500
# Several at once share the work better if they are small, and racing can stop earlier.
STREAM_BATCH = 50


def in_turn(samples: Samples) -> Iterator[Samples]:
    """Yield samples in batches to be run one after the other."""
    return samples.batches_within(CPU_BATCH if _on_cpu(samples) else GPU_BATCH)


def _on_cpu(samples: Samples) -> bool:
    return samples.inputs.device.type == "cpu"


class Streams:
    """Runs networks on fixed samples.

    Attributes:
        width: how many batches are computed at once.
    """

    def __init__(self, samples: Samples) -> None:
        """Compute as many batches at once as PyTorch may use threads; on a GPU one."""
        self.width = torch.get_num_threads() if _on_cpu(samples) else 1
        self._samples = samples

    def batches(self) -> list[Samples]:
        """Return the samples as they are run."""
        if self.width == 1:
            return list(in_turn(self._samples))
        return list(self._samples.batches_within(STREAM_BATCH))

    def check(self, model: nn.Module, expected: Tensor) -> None:
        """Compute one batch at a time from now on if a network's batches disturb each other.

        They do where its forward pass keeps something on the module and reads it again.

        Args:
            model: a network.
            expected: its outputs, computed one batch after the other.
        """
        try:
            found = torch.cat(list(self.outputs(model)))
            alike = torch.allclose(found, expected, rtol=1e-3, atol=1e-3)
        except Exception:
            alike = False
        if not alike:
            self.width = 1

    def outputs(self, model: nn.Module) -> Iterator[Any]:
        """Yield a network's output for every one of `batches`, in order, computing few ahead."""
        if self.width == 1:
            yield from (_run(model, batch.inputs) for batch in self.batches())
            return
        running: deque[Future[Any]] = deque()
        with _threads(self.width) as pool:
            for batch in self.batches():
                if len(running) == self.width:
                    yield running.popleft().result()
                running.append(pool.submit(_run, model, batch.inputs))
            while running:
                yield running.popleft().result()


def _run(model: nn.Module, inputs: Tensor) -> Any:
    with torch.inference_mode():
        return model(inputs)


@contextmanager
def _threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """Give threads in which PyTorch uses no further ones."""
    within = torch.get_num_threads()
    torch.set_num_threads(1)  # New threads begin with what was set last, in whichever thread.
    try:
        with ThreadPoolExecutor(number) as pool:
            yield pool
    finally:
        torch.set_num_threads(within)

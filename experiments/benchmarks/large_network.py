"""CPU seconds and peak memory of the stages of a search on a large network.

Usage: OMP_NUM_THREADS=1 python experiments/benchmarks/large_network.py [resnet50 [IMAGES]]
(A torchvision network with random weights, random images of 224 x 224.)

Tracing, statistics and the orders of all groups come first; then one candidate at half of the MACs
is cut, repaired in one shot and scored, and repaired thoroughly as a finalist. What grows with the
images is also given for one image. Seconds are the processor's, of all threads.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from autoprune.core.allocator import kept_memory
from autoprune.core.progress import PlainProgress
from autoprune.data import Partition, Samples
from autoprune.data.splits import SamplesSplit
from autoprune.engine.builder import make_builder
from autoprune.engine.clock import Clock
from autoprune.engine.context import SearchContext
from autoprune.engine.problem import make_problem
from autoprune.evaluation.classification import ClassificationScorer
from autoprune.models.loading import load_model
from autoprune.options.search import SearchConfig
from autoprune.study.run_directory import RunDirectory

# Of sequential repair.
ACTIVATION_BYTES = 2_000_000_000

Result = TypeVar("Result")


class CpuClock(Clock):
    """A clock whose stages are counted in seconds of the processor."""

    @contextmanager
    def stage(self, name: str) -> Any:
        """Count what is done inside."""
        start = time.process_time()
        yield
        self.add(name, time.process_time() - start)


def peak_gib() -> float:
    """Return the most memory that this process held so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@kept_memory()
def main(network: str = "resnet50", images: int = 256) -> None:
    torch.manual_seed(0)
    model = load_model(f"torchvision:{network}").eval()
    samples = Samples(torch.randn(images, 3, 224, 224), None)
    # The images of all purposes are those of calibration.
    split = SamplesSplit(samples)
    shared = Partition(samples, split, samples, samples, split, None, "train")
    config = SearchConfig("flops=0.5", repair_memory=ACTIVATION_BYTES)
    clock = CpuClock(time.monotonic())
    context = SearchContext(
        model, samples.inputs[:2], shared, config, RunDirectory("unused"), progress=PlainProgress(),
        clock=clock,
    )  # fmt: skip

    def timed(stage: str, work: Callable[[], Result], over: int | None = None) -> Result:
        before = clock.seconds.get(stage, 0.0)
        with clock.stage(stage):
            result = work()
        _tell(stage, clock.seconds[stage] - before, over)
        return result

    with torch.no_grad():
        timed("dense forward", lambda: [model(one[None]) for one in samples.inputs], images)
    problem = timed("structure", lambda: make_problem(context))
    builder = make_builder(context, problem)
    _tell("statistics", clock.seconds["statistics"], images)
    _tell("orders and losses", clock.seconds["paths"])
    widths = problem.projection.uniform()
    cut = timed("cut and one-shot repair", lambda: builder.one_shot(widths))
    scorer = timed("dense scores", lambda: ClassificationScorer(model, samples), images)
    timed("scores", lambda: scorer.score(cut), images)
    repaired = len(builder.repair.samples)
    timed("sequential repair", lambda: builder.sequential(widths), repaired)


def _tell(stage: str, seconds: float, images: int | None = None) -> None:
    each = (
        "" if images is None else f", {1000 * seconds / images:.0f} ms for each of {images} images"
    )
    print(f"{stage}: {seconds:.1f} s{each}; {peak_gib():.1f} GiB at most so far", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))

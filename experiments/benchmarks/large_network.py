"""Seconds and peak memory of what precedes a search on a large network: statistics and paths.

Usage: python experiments/benchmarks/large_network.py [resnet50 [IMAGES]]
(A torchvision network with random weights, random images of 224 x 224.)
"""

from __future__ import annotations

import resource
import sys

import torch

from autoprune.core.allocator import kept_memory
from autoprune.core.progress import PlainProgress
from autoprune.data import Partition, Samples
from autoprune.data.splits import SamplesSplit
from autoprune.engine.builder import make_builder
from autoprune.engine.context import SearchContext
from autoprune.engine.problem import make_problem
from autoprune.models.loading import load_model
from autoprune.options.search import SearchConfig
from autoprune.study.run_directory import RunDirectory

# Of sequential repair.
ACTIVATION_BYTES = 2_000_000_000


def peak_gib() -> float:
    """Return the most memory that this process held so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@kept_memory()
def main(network: str = "resnet50", images: int = 256) -> None:
    torch.manual_seed(0)
    model = load_model(f"torchvision:{network}").eval()
    samples = Samples(torch.randn(images, 3, 224, 224), None)
    # Nothing is scored here: the images of the other purposes are those of calibration.
    split = SamplesSplit(samples)
    shared = Partition(samples, split, samples, samples, split, None, "train")
    config = SearchConfig("flops=0.5", repair_memory=ACTIVATION_BYTES)
    context = SearchContext(
        model, samples.inputs[:2], shared, config, RunDirectory("unused"), progress=PlainProgress()
    )
    problem = make_problem(context)
    print(f"before: {peak_gib():.1f} GiB at most", flush=True)
    make_builder(context, problem)
    seconds = context.clock.seconds
    print({stage: round(spent, 1) for stage, spent in seconds.items()})
    print(f"{sum(seconds.values()):.0f} s, {peak_gib():.1f} GiB at most")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))

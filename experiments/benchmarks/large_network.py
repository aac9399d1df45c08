"""Seconds and peak memory of what precedes a search on a large network: statistics and paths.

Usage: python experiments/benchmarks/large_network.py [resnet50 [IMAGES]]
(A torchvision network with random weights, random images of 224 x 224.)
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

from autoprune.core.allocator import kept_memory
from autoprune.core.progress import PlainProgress
from autoprune.data import Samples
from autoprune.engine.evaluators import gather
from autoprune.engine.problem import define_task
from autoprune.importance import make_importance
from autoprune.models.loading import load_model
from autoprune.options.search import SearchConfig
from autoprune.reconstruction.sequential import samples_within

# Of sequential repair.
ACTIVATION_BYTES = 2_000_000_000


def peak_gib() -> float:
    """Return the most memory that this process held so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@kept_memory()
def main(network: str = "resnet50", images: int = 256) -> None:
    torch.manual_seed(0)
    model = load_model(f"torchvision:{network}").eval()
    calibration = Samples(torch.randn(images, 3, 224, 224), None)
    config = SearchConfig("flops=0.5")
    progress = PlainProgress()
    task = define_task(model, calibration.inputs[:2], config, Path("unused"), progress)
    print(f"before: {peak_gib():.1f} GiB at most", flush=True)
    seconds: dict[str, float] = {}
    criterion = make_importance(config.importance)
    fitting = samples_within(task.structure, ACTIVATION_BYTES)
    gather(model, task.structure, calibration, criterion, config.seed, progress, seconds, fitting)
    print({stage: round(spent, 1) for stage, spent in seconds.items()})
    print(f"{sum(seconds.values()):.0f} s, {peak_gib():.1f} GiB at most")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))

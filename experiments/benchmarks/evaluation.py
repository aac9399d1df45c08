"""One evaluation, stage by stage, beside the bare forward pass of the same cut network.

That is run batch by batch, and several batches at once, as it is for scoring.

Usage: python experiments/benchmarks/evaluation.py SHARED
(SHARED holds data/ and checkpoints/ of CIFAR-10; ResNet-56, uniform half the MACs.)
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from autoprune.core.allocator import kept_memory
from autoprune.data import Samples, SplitSizes, load_splits, partition
from autoprune.engine.context import SearchContext
from autoprune.engine.evaluators import make_evaluators
from autoprune.engine.problem import make_problem
from autoprune.evaluation.parallel_forward import ParallelForward, in_turn
from autoprune.models.loading import load_model
from autoprune.options.search import SearchConfig
from autoprune.reconstruction.batchnorm import fold_batchnorm
from autoprune.study.run_directory import RunDirectory

REPEATS = 7
STAGES = ("surgery", "batchnorm", "scoring")


@kept_memory()
def main(shared: Path) -> None:
    factory = Path(__file__).parents[1] / "models" / "cifar_resnet.py"
    model = load_model(f"{factory}:resnet56", str(shared / "checkpoints" / "cifar_resnet56.th"))
    images = partition(load_splits(f"cifar10:{shared / 'data'}"), SplitSizes(), seed=0)
    config = SearchConfig(budget="flops=0.5")
    inputs = images.calibration.inputs[:2]
    context = SearchContext(model.eval(), inputs, images, config, RunDirectory("unused"))
    task = make_problem(context)
    evaluators = make_evaluators(context, task)
    print({stage: round(spent, 2) for stage, spent in context.clock.seconds.items()})
    search = images.search.to("cpu")  # channels last, as in a search
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(REPEATS):
        # Fresh widths every time: nothing is answered from the cache of solved weights.
        widths = task.projection.project(rng.uniform(0.3, 1.0, len(task.space)))
        stages = evaluators.search.measure(widths).seconds
        small = fold_batchnorm(evaluators.builder.one_shot(widths), task.structure)
        for name, run in (("bare forward", _in_turn), ("forward in streams", _in_streams)):
            start = time.perf_counter()
            run(small, search)
            stages = {**stages, name: time.perf_counter() - start}
        rows.append(stages)
    for stage in rows[0]:
        print(f"{stage}: median {statistics.median(row[stage] for row in rows):.3f} s")
    for bare in ("bare forward", "forward in streams"):
        ratio = [(row["surgery"] + row["scoring"]) / row[bare] for row in rows]
        print(f"all but BN / {bare}: median {statistics.median(ratio):.2f}")
    total = [sum(row[stage] for stage in STAGES if stage in row) for row in rows]
    print(f"evaluations per minute: {60 / statistics.median(total):.1f}")


def _in_turn(network: nn.Module, samples: Samples) -> None:
    with torch.no_grad():
        for batch in in_turn(samples):
            network(batch.inputs)


def _in_streams(network: nn.Module, samples: Samples) -> None:
    list(ParallelForward(samples).outputs(network))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

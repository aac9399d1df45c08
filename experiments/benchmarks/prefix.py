"""Scoring the candidates of one NetAdapt-like step, with and without reuse of their common prefix.

Usage: OMP_NUM_THREADS=1 python experiments/benchmarks/prefix.py SHARED [NETWORK [IMAGES]]
(SHARED holds data/ and checkpoints/ of CIFAR-10; NETWORK is resnet56 or resnet20. The base is the
uniform cut to 0.7 of the MACs; every group in turn, in network order, loses a tenth of its units.
Seconds are the processor's, so that other work on the machine hardly shows.)
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from autoprune.core.allocator import kept_memory
from autoprune.data import SplitSizes, load_splits, partition
from autoprune.engine.builder import make_builder
from autoprune.engine.context import SearchContext
from autoprune.engine.problem import make_problem
from autoprune.evaluation.classification import ClassificationScorer
from autoprune.evaluation.measurement import Scores
from autoprune.models.loading import load_model
from autoprune.options.search import SearchConfig
from autoprune.reconstruction.batchnorm import fold_batchnorm
from autoprune.search_spaces.keep_ratio import with_width
from autoprune.study.run_directory import RunDirectory

ROUNDS = 3


def timed(score: Callable[[], Scores]) -> tuple[Scores, float]:
    start = time.process_time()
    return score(), time.process_time() - start


@kept_memory()
def main(shared: Path, network: str = "resnet56", samples: str = "1000") -> None:
    factory = Path(__file__).parents[1] / "models" / "cifar_resnet.py"
    model = load_model(f"{factory}:{network}", str(shared / "checkpoints" / f"cifar_{network}.th"))
    sizes = SplitSizes(search=int(samples))
    images = partition(load_splits(f"cifar10:{shared / 'data'}"), sizes, seed=0)
    config = SearchConfig(budget="flops=0.7")
    inputs = images.calibration.inputs[:2]
    context = SearchContext(model.eval(), inputs, images, config, RunDirectory("unused"))
    task = make_problem(context)
    builder = make_builder(context, task)
    widths = task.projection.uniform()
    step = [with_width(widths, group, w - max(1, w // 10)) for group, w in enumerate(widths)]
    base, *candidates = (
        fold_batchnorm(builder.one_shot(w), task.structure) for w in (widths, *step)
    )
    ratios = []
    for _ in range(ROUNDS):
        scorer = ClassificationScorer(model, images.search)
        plain = near = difference = 0.0
        skipped = []
        for candidate in candidates:
            # In turns: what slows the machine down then slows both alike.
            expected, seconds = timed(lambda: scorer.score(candidate))  # noqa: B023
            plain += seconds
            scores, seconds = timed(lambda: scorer.score_near(candidate, lambda: base))  # noqa: B023
            near += seconds
            difference = max(difference, abs((scores.kl or 0.0) - (expected.kl or 0.0)))
            skipped.append(scorer.prefix.skipped)
        ratios.append(near / plain)
        print(
            f"{network}, {len(candidates)} candidates: {plain:.2f} s in full, {near:.2f} s with "
            f"reuse (operators skipped: {statistics.mean(skipped):.2f}); KL differs by "
            f"{difference:g}"
        )
    print(f"with reuse / in full: median {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

"""A whole NetAdapt search with and without reuse of what its proposals have in common.

Usage: OMP_NUM_THREADS=1 python experiments/benchmarks/netadapt.py SHARED [NETWORK [TRIALS [SEED]]]
(SHARED holds data/ and checkpoints/ of CIFAR-10; NETWORK is resnet56 or resnet20, half the MACs.
Seconds are the processor's, of the search without set-up and finalists; either way begins with
nothing remembered.)
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import optuna

from autoprune.agents.registry import make_strategy
from autoprune.core.allocator import kept_memory
from autoprune.core.policy import Widths
from autoprune.core.progress import Progress
from autoprune.data import SplitSizes, load_splits, partition
from autoprune.engine.evaluators import set_up
from autoprune.engine.exploration import explore, pose
from autoprune.engine.problem import define_task
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.measurement import Measurement
from autoprune.evaluation.reward import negative_kl
from autoprune.models.loading import load_model
from autoprune.options.search import SearchConfig
from autoprune.study.ledger import Ledger


class WithoutBases(Evaluator):
    """Scores every candidate from the first layer on."""

    def __init__(self, judge: Evaluator) -> None:
        self._judge = judge

    def measure(
        self, widths: Widths, base: Widths | None = None, rival: Widths | None = None
    ) -> Measurement:
        """Forget the base."""
        return self._judge.measure(widths, None, rival)


def search(shared: Path, network: str, trials: int, seed: int, with_bases: bool) -> float:
    """Run one search; return its CPU seconds."""
    factory = Path(__file__).parents[1] / "models" / "cifar_resnet.py"
    model = load_model(f"{factory}:{network}", str(shared / "checkpoints" / f"cifar_{network}.th"))
    images = partition(load_splits(f"cifar10:{shared / 'data'}"), SplitSizes(), seed)
    config = SearchConfig(budget="flops=0.5", trials=trials, seed=seed)
    inputs = images.calibration.inputs[:2]
    task = define_task(model.eval(), inputs, config, Path("unused"), Progress())
    bench = set_up(model, task, images, None, config, Progress(), {}, "one-shot")
    if not with_bases:
        bench = replace(bench, judge=WithoutBases(bench.judge))
    strategy = make_strategy("netadapt", pose(task, bench, config))
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(task.space, f"sqlite:///{folder}/study.db")
        explore(strategy, trials, bench, negative_kl, ledger, math.inf, Progress())
        spent = time.process_time() - start
        based = sum(trial.candidate.base is not None for trial in ledger)
        best = ledger.best(1)[0].value
    print(
        f"{network}, {trials} trials, seed {seed}, {'with' if with_bases else 'without'} bases "
        f"({based} of {len(ledger)} have one): {spent:.1f} s, best {best:.4f}",
        flush=True,
    )
    return spent


@kept_memory()
def main(shared: str, network: str = "resnet56", trials: str = "400", seed: str = "0") -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spent = [
        search(Path(shared), network, int(trials), int(seed), bases) for bases in (True, False)
    ]
    print(f"with / without: {spent[0] / spent[1]:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A whole NetAdapt search with and without reuse of what its proposals have in common.

Usage: OMP_NUM_THREADS=1 python experiments/benchmarks/netadapt.py SHARED [NETWORK [TRIALS [SEED]]]
(SHARED holds data/ and checkpoints/ of CIFAR-10; NETWORK is resnet56 or resnet20, half the MACs.
Seconds are the processor's, of the search without set-up and finalists; either way begins with
nothing remembered.)
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import optuna

from autoprune.agents.registry import make_strategy
from autoprune.core.allocator import kept_memory
from autoprune.core.policy import Widths
from autoprune.data import SplitSizes, load_splits, partition
from autoprune.engine.context import SearchContext
from autoprune.engine.evaluators import make_evaluators
from autoprune.engine.executors import LocalExecutor
from autoprune.engine.loop import LoopLimits
from autoprune.engine.problem import make_problem
from autoprune.engine.rounds import explore
from autoprune.engine.search_problem import search_problem
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.models.loading import load_model
from autoprune.options.search import SearchConfig
from autoprune.study.ledger import Ledger
from autoprune.study.run_directory import RunDirectory


class WithoutBases(Evaluator):
    """Scores every candidate from the first layer on."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    @property
    def dense(self) -> Scores:
        """Scores of the dense network."""
        return self._evaluator.dense

    def measure(
        self, widths: Widths, base: Widths | None = None, incumbent: Widths | None = None
    ) -> Measurement:
        """Forget the base."""
        return self._evaluator.measure(widths, None, incumbent)


def search(shared: Path, network: str, trials: int, seed: int, with_bases: bool) -> float:
    """Run one search; return its CPU seconds."""
    factory = Path(__file__).parents[1] / "models" / "cifar_resnet.py"
    model = load_model(f"{factory}:{network}", str(shared / "checkpoints" / f"cifar_{network}.th"))
    images = partition(load_splits(f"cifar10:{shared / 'data'}"), SplitSizes(), seed)
    config = SearchConfig(budget="flops=0.5", trials=trials, seed=seed)
    inputs = images.calibration.inputs[:2]
    begun = {"judge": "one-shot"}
    context = SearchContext(
        model.eval(), inputs, images, config, RunDirectory("unused"), begun=begun
    )
    task = make_problem(context)
    evaluators = make_evaluators(context, task)
    if not with_bases:
        evaluators = replace(evaluators, search=WithoutBases(evaluators.search))
    strategy = make_strategy("netadapt", search_problem(context, task, evaluators))
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(task.space, f"sqlite:///{folder}/study.db")
        explore(context, LocalExecutor(evaluators), ledger, strategy, LoopLimits(trials))
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

"""Strategies at equal evaluations: what each finds on CIFAR-10, on images it never saw.

Usage: python experiments/strategies/compare.py SHARED resnet20 \
    --strategies random uniform knapsack --seeds 0 1 2 --trials 100

SHARED holds data/ and checkpoints/ of CIFAR-10. Probes count as trials. Every strategy is given the
same images, statistics and judge (one-shot) of a seed; its best candidate by −KL on the search
images is then scored on the selection images, with the same repair. Weights that one strategy had
solved are remembered for the next, so that those named first look a little slower.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna

from autoprune.agents import make_strategy
from autoprune.bench import set_up
from autoprune.cli.specs import load_model
from autoprune.config import SearchConfig
from autoprune.data import SplitSizes, load_splits, partition
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.reward import negative_kl
from autoprune.loop import run_loop
from autoprune.memory import kept_memory
from autoprune.progress import Progress
from autoprune.search_spaces.traits import describe
from autoprune.strategy import SearchProblem
from autoprune.study.ledger import Ledger
from autoprune.task import Task, define_task

FACTORY = Path(__file__).parents[1] / "models" / "cifar_resnet.py"


@dataclass(frozen=True)
class Row:
    """One search: its best candidate's scores, and what it took.

    Attributes:
        searched: KL on the search images, which it was chosen by.
        kl, top1: on the selection images.
        trials: evaluations, probes included.
        seconds: of the whole search.
        widths: of the best candidate.
    """

    strategy: str
    seed: int
    searched: float
    kl: float
    top1: float
    trials: int
    seconds: float
    widths: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Arena:
    """What the strategies of one seed share."""

    task: Task
    problem: SearchProblem
    judge: Evaluator
    referee: Evaluator


def arena(
    shared: Path, network: str, budget: str, trials: int, seed: int, samples: int = 1000
) -> Arena:
    """Gather a seed's images and statistics."""
    weights = shared / "checkpoints" / f"cifar_{network}.th"
    model = load_model(f"{FACTORY}:{network}", str(weights)).eval()
    sizes = SplitSizes(search=samples)
    images = partition(load_splits(f"cifar10:{shared / 'data'}"), sizes, seed)
    config = SearchConfig(budget=budget, seed=seed)
    inputs = images.calibration.inputs[:2]
    task = define_task(model, inputs, config, Path("unused"), Progress())
    bench = set_up(model, task, images, None, config, Progress(), {})
    problem = SearchProblem(
        space=task.space,
        projection=task.projection,
        costs=task.costs,
        rankings=bench.builder.rankings,
        traits=describe(task.structure),
        trials=trials,
        seed=seed,
    )
    return Arena(task, problem, bench.judge, bench.finals[bench.judge_name])


def play(name: str, arena: Arena) -> Row:
    """Run one search and score its best candidate."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(arena.task.space, f"sqlite:///{folder}/study.db")
        run_loop(
            make_strategy(name, arena.problem),
            lambda candidate: arena.judge.measure(candidate.widths, candidate.base),
            negative_kl,
            ledger,
            arena.problem.trials,
        )
    seconds = time.perf_counter() - start
    best = ledger.best(1)[0]
    scores = arena.referee.measure(best.candidate.widths).scores
    return Row(
        strategy=name,
        seed=arena.problem.seed,
        searched=-(best.value or 0.0),
        kl=scores.kl or 0.0,
        top1=scores.top1 or 0.0,
        trials=len(ledger),
        seconds=round(seconds, 1),
        widths=best.candidate.widths,
    )


def summary(rows: Sequence[Row]) -> str:
    """Return mean ± standard deviation over the seeds, strategy by strategy."""
    lines = ["strategy          KL searched        KL unseen      top-1 unseen  trials  seconds"]
    for name in dict.fromkeys(row.strategy for row in rows):
        own = [row for row in rows if row.strategy == name]
        figures = [
            _spread([row.searched for row in own], 4),
            _spread([row.kl for row in own], 4),
            _spread([100 * row.top1 for row in own], 2),
        ]
        trials, seconds = (
            statistics.mean(values)
            for values in ([row.trials for row in own], [row.seconds for row in own])
        )
        lines.append(f"{name:12}" + "".join(f"{f:>17}" for f in figures) + f"{trials:8.0f}")
        lines[-1] += f"{seconds:9.1f}"
    return "\n".join(lines)


def _spread(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


@kept_memory()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("network", help="resnet20 or resnet56")
    parser.add_argument("--strategies", nargs="+", default=["random", "uniform", "knapsack"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--budget", default="flops=0.5")
    parser.add_argument("--output", type=Path, help="JSON; strategies-NETWORK.json by default")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows: list[Row] = []
    for seed in args.seeds:
        shared = arena(args.shared, args.network, args.budget, args.trials, seed)
        for name in args.strategies:
            rows.append(play(name, shared))
            print(rows[-1], flush=True)
    output = args.output or Path(f"strategies-{args.network}.json")
    output.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(f"{args.network}, {args.budget}, seeds {args.seeds}\n{summary(rows)}\n{output}")


if __name__ == "__main__":
    main()

"""Strategies at equal evaluations: what each finds on CIFAR-10, on images it never saw.

Usage: python experiments/strategies/compare.py SHARED resnet20 \
    --strategies random uniform knapsack --seeds 0 1 2 --trials 100

SHARED holds data/ and checkpoints/ of CIFAR-10. Probes count as trials. Every strategy is given the
same images, statistics and judge of a seed; the winner of its run-off, as in every search, or with
`--contenders 1` its best candidate, is then scored on the test images, which nothing before has
read: with the judge's repair, and as handed over.
Weights that one strategy had solved are remembered for the next, so that those named first look a
little slower.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
from torch import nn

from autoprune.agents import make_strategy
from autoprune.bench import Bench, set_up
from autoprune.cli.specs import load_model
from autoprune.config import SearchConfig
from autoprune.data import Split, SplitSizes, load_splits, partition
from autoprune.evaluation.reward import negative_kl
from autoprune.evaluation.scoring import score_split
from autoprune.exploration import explore, pose
from autoprune.finals import CONTENDERS, run_off
from autoprune.memory import kept_memory
from autoprune.progress import Progress
from autoprune.strategy import SearchProblem
from autoprune.study.ledger import Ledger
from autoprune.task import Task, define_task

FACTORY = Path(__file__).parents[1] / "models" / "cifar_resnet.py"


@dataclass(frozen=True)
class Row:
    """One search: its best candidate's scores, and what it took.

    Attributes:
        searched: KL of its best candidate on the search images.
        kl, top1: of the winner on the test images, with the judge's repair.
        repaired_kl, repaired_top1: the same as it is handed over.
        trials: evaluations, probes included.
        forwards: images scored.
        seconds: of the whole search, without the run-off.
        widths: of the winner.
    """

    strategy: str
    seed: int
    searched: float
    kl: float
    top1: float
    repaired_kl: float
    repaired_top1: float
    trials: int
    forwards: int
    seconds: float
    widths: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Arena:
    """What the strategies of one seed share."""

    model: nn.Module
    test: Split
    task: Task
    problem: SearchProblem
    bench: Bench


def arena(
    shared: Path,
    network: str,
    budget: str,
    trials: int,
    seed: int,
    samples: int = 1000,
    workers: int = 1,
) -> Arena:
    """Gather a seed's images and statistics."""
    weights = shared / "checkpoints" / f"cifar_{network}.th"
    model = load_model(f"{FACTORY}:{network}", str(weights)).eval()
    sizes = SplitSizes(search=samples)
    images = partition(load_splits(f"cifar10:{shared / 'data'}"), sizes, seed)
    config = SearchConfig(budget=budget, trials=trials, seed=seed, workers=workers)
    inputs = images.calibration.inputs[:2]
    task = define_task(model, inputs, config, Path("unused"), Progress())
    bench = set_up(model, task, images, None, config, Progress(), {})
    if images.test is None:
        raise SystemExit("no test images in SHARED")
    return Arena(model, images.test, task, pose(task, bench, config), bench)


def play(name: str, arena: Arena, contenders: int = CONTENDERS) -> Row:
    """Run one search and score its winner, the best of so many trials that are looked at again."""
    start, bench = time.perf_counter(), arena.bench
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(arena.task.space, f"sqlite:///{folder}/study.db")
        strategy = make_strategy(name, arena.problem)
        explore(strategy, strategy.problem.trials, bench, negative_kl, ledger, math.inf, Progress())
    seconds = time.perf_counter() - start
    best = ledger.best(contenders, arena.problem.projection.fits)
    winner = run_off(best, bench, negative_kl, Progress())
    widths = winner.measurement.widths
    quick, _ = bench.finals[bench.judge_name].build(widths)
    _, quick_scores, scores = score_split(arena.model, [quick, winner.network], arena.test)
    return Row(
        strategy=name,
        seed=arena.problem.seed,
        searched=-(best[0].value or 0.0),
        kl=quick_scores.kl or 0.0,
        top1=quick_scores.top1 or 0.0,
        repaired_kl=scores.kl or 0.0,
        repaired_top1=scores.top1 or 0.0,
        trials=len(ledger),
        forwards=sum(bench.forwards(trial.measurement) for trial in ledger),
        seconds=round(seconds, 1),
        widths=widths,
    )


def summary(rows: Sequence[Row]) -> str:
    """Return mean ± standard deviation over the seeds, strategy by strategy."""
    columns = ("searched", "kl", "repaired_kl", "repaired_top1", "trials", "forwards", "seconds")
    lines = [f"{'strategy':12}" + "".join(f"{column:>17}" for column in columns)]
    for name in dict.fromkeys(row.strategy for row in rows):
        own = [row for row in rows if row.strategy == name]
        figures = (_spread([getattr(row, column) for row in own]) for column in columns)
        lines.append(f"{name:12}" + "".join(f"{figure:>17}" for figure in figures))
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    digits = 4 if max(values) < 10 else 0
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
    parser.add_argument(
        "--contenders",
        type=int,
        default=CONTENDERS,
        help="for the run-off; 1: the best candidate wins",
    )
    parser.add_argument("--workers", type=int, default=1, help="candidates evaluated at once")
    parser.add_argument("--output", type=Path, help="JSON; strategies-NETWORK.json by default")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    output = args.output or Path(f"strategies-{args.network}.json")
    rows: list[Row] = []
    for seed in args.seeds:
        shared = arena(
            args.shared, args.network, args.budget, args.trials, seed, workers=args.workers
        )
        for name in args.strategies:
            rows.append(play(name, shared, args.contenders))
            print(rows[-1], flush=True)
            output.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(f"{args.network}, {args.budget}, {args.contenders} contenders, seeds {args.seeds}")
    print(f"{summary(rows)}\n{output}")


if __name__ == "__main__":
    main()

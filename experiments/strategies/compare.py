"""Strategies at equal evaluations or equal time: what each hands over, on images it never saw.

Usage: python experiments/strategies/compare.py SHARED resnet20 \
    --strategies random uniform knapsack --seeds 0 1 2 --trials 100

SHARED holds data/ and checkpoints/ of CIFAR-10; other networks are named as FILE.py:FACTORY=WEIGHTS
(train.py beside cifar_resnet.py makes such). Probes count as trials. Every strategy is given the
same images, statistics and search evaluator of a seed. Its winner, chosen from a shortlist as in
every search (with `--contenders 1` its best candidate), is then scored on the test images, which
nothing before has read: with the search's repair, and as handed over.

`--ray` gives every seed a Ray worker (seconds are then those of one thread).

With `--seconds` every search gets so many, the choice of the winner included, but not the
statistics, which all share. Strategies that plan ahead are told how many trials of the uniform cut
would fit.
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
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from scipy.stats import spearmanr

from autoprune.agents.base import SearchProblem
from autoprune.agents.registry import make_strategy
from autoprune.core.allocator import kept_memory
from autoprune.data import Split, SplitSizes, load_splits, partition
from autoprune.engine.clock import SEARCH_SHARE
from autoprune.engine.context import SearchContext
from autoprune.engine.evaluators import Evaluators, make_evaluators
from autoprune.engine.executors import LocalExecutor
from autoprune.engine.finalists import make_shortlist, select_winner
from autoprune.engine.loop import LoopLimits
from autoprune.engine.problem import PruningProblem, make_problem
from autoprune.engine.ray_cluster import joined
from autoprune.engine.ray_executor import RayExecutor
from autoprune.engine.rounds import explore
from autoprune.engine.search_problem import search_problem
from autoprune.evaluation.classification import score_split
from autoprune.models.loading import load_model
from autoprune.options.search import SearchConfig
from autoprune.study.ledger import Ledger
from autoprune.study.run_directory import RunDirectory
from autoprune.study.trial import Trial

FACTORY = Path(__file__).parents[1] / "models" / "cifar_resnet.py"


@dataclass(frozen=True)
class Row:
    """One search: its best candidate's scores, and what it took.

    Attributes:
        searched: KL of its best candidate on the search images.
        kl, top1: of the winner on the test images, with the judge's repair.
        repaired_kl, repaired_top1: the same as it is handed over.
        correlation: of the searched value with the KL after thorough repair on the test images,
            by rank, among some of the last 50 candidates; None where that was not asked for.
        trials: evaluations, probes included.
        forwards: images scored.
        seconds: of the whole search, without the choice of the winner.
        final_seconds: of the choice of the winner.
        widths: of the winner.
    """

    strategy: str
    seed: int
    searched: float
    kl: float
    top1: float
    repaired_kl: float
    repaired_top1: float
    correlation: float | None
    trials: int
    forwards: int
    seconds: float
    final_seconds: float
    widths: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Setting:
    """What the strategies of one seed share."""

    context: SearchContext
    test: Split
    task: PruningProblem
    problem: SearchProblem
    evaluators: Evaluators


def setting(shared: Path, network: str, config: SearchConfig, judge: str | None = None) -> Setting:
    """Gather a seed's images and statistics; the search evaluator is the usual one by default."""
    factory, _, weights = network.partition("=")
    if not weights:
        factory = f"{FACTORY}:{network}"
        weights = str(shared / "checkpoints" / f"cifar_{network}.th")
    model = load_model(factory, weights).eval()
    images = partition(load_splits(f"cifar10:{shared / 'data'}"), SplitSizes(), config.seed)
    if images.test is None:
        raise SystemExit("no test images in SHARED")
    inputs, begun = images.calibration.inputs[:2], {} if judge is None else {"judge": judge}
    context = SearchContext(model, inputs, images, config, RunDirectory("unused"), begun=begun)
    task = make_problem(context)
    evaluators = make_evaluators(context, task)
    problem = search_problem(context, task, evaluators)
    return Setting(context, images.test, task, problem, evaluators)


def play(
    name: str,
    setting: Setting,
    contenders: int | None = None,
    seconds: float | None = None,
    correlated: int = 0,
) -> Row:
    """Run one search and score its winner.

    Args:
        name: of the strategy.
        setting: what it shares with others.
        contenders: of its best candidates that are looked at again; None as every search does.
        seconds: that it may take with the choice of its winner; None for the setting's trials.
        correlated: of the last 50 candidates that the searched value is compared with thoroughly.
    """
    start, evaluators, problem = time.perf_counter(), setting.evaluators, setting.problem
    context, executor = setting.context, LocalExecutor(evaluators, setting.context.workers)
    stop = deadline = math.inf
    if seconds is not None:
        deadline = time.monotonic() + seconds
        stop = time.monotonic() + SEARCH_SHARE * seconds
        problem = replace(problem, trials=affordable(setting, SEARCH_SHARE * seconds))
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(setting.task.space, f"sqlite:///{folder}/study.db")
        strategy = make_strategy(name, problem)
        most = problem.trials if seconds is None else 10 * problem.trials
        explore(context, executor, ledger, strategy, LoopLimits(most, stop, problem.at_once))
    searched = time.perf_counter()
    best = ledger.best(len(ledger), problem.projection.fits)
    uniform = problem.projection.uniform()
    shortlist = make_shortlist(context, evaluators, problem.space, best, {uniform})
    chosen = best[:contenders] if contenders else shortlist
    winner = select_winner(context, executor, chosen, deadline)
    ended = time.perf_counter()
    widths = winner.measurement.widths
    quick, _ = evaluators.selection[evaluators.search_repair].build(widths)
    _, quick_scores, scores = score_split(context.model, [quick, winner.network], setting.test)
    return Row(
        strategy=name,
        seed=problem.seed,
        searched=-(best[0].value or 0.0),
        kl=quick_scores.kl or 0.0,
        top1=quick_scores.top1 or 0.0,
        repaired_kl=scores.kl or 0.0,
        repaired_top1=scores.top1 or 0.0,
        correlation=rank_correlation(list(ledger), setting, correlated) if correlated else None,
        trials=len(ledger),
        forwards=sum(evaluators.forwards(trial.measurement) for trial in ledger),
        seconds=round(searched - start, 1),
        final_seconds=round(ended - searched, 1),
        widths=widths,
    )


def affordable(setting: Setting, seconds: float) -> int:
    """Return how many trials of the uniform cut there are in so many seconds."""
    widths = setting.problem.projection.uniform()
    setting.evaluators.search.measure(widths)  # what is only done once
    start = time.perf_counter()
    setting.evaluators.search.measure(widths)
    return max(int(seconds / (time.perf_counter() - start)), 1)


def rank_correlation(trials: Sequence[Trial], setting: Setting, count: int) -> float:
    """Return Spearman's coefficient of searched values and KL handed over, of the last trials.

    Args:
        trials: in their order.
        setting: where they were made.
        count: how many of the last 50 are repaired thoroughly, spread evenly over their values.
    """
    fits = setting.problem.projection.fits
    known = [t for t in trials if t.value is not None and fits(t.candidate.widths)][-50:]
    ranked = sorted(known, key=lambda trial: trial.value or 0.0)
    places = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    shown = [ranked[place] for place in places]
    builder, model = setting.evaluators.builder, setting.context.model
    kls = [
        score_split(model, [builder.sequential(widths)], setting.test)[1].kl
        for widths in (t.candidate.widths for t in shown)
    ]
    return float(spearmanr([-(t.value or 0.0) for t in shown], kls).statistic)


def summary(rows: Sequence[Row]) -> str:
    """Return mean ± standard deviation over the seeds, strategy by strategy."""
    columns = (
        "searched",
        "kl",
        "repaired_kl",
        "repaired_top1",
        "trials",
        "seconds",
        "final_seconds",
    )
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


def of_seed(seed: int, args: argparse.Namespace) -> Iterator[Row]:
    """Yield the searches of all strategies with one seed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = SearchConfig(budget=args.budget, trials=args.trials, seed=seed, workers=args.workers)
    shared = setting(args.shared, args.network, config, args.judge)
    for name in args.strategies:
        yield play(name, shared, args.contenders, args.seconds, args.correlated)


def here(args: argparse.Namespace) -> Iterator[Row]:
    """Yield the searches of all seeds, one after the other."""
    for seed in args.seeds:
        yield from of_seed(seed, args)


def everywhere(args: argparse.Namespace) -> Iterator[Row]:
    """Yield the same; every seed has a Ray worker, with one thread, for itself."""
    args.shared = args.shared.resolve()
    with joined(args.ray, "cpu") as cluster:
        assert cluster is not None
        executor = RayExecutor(cluster, args, min(len(args.seeds), cluster.room))
        with closing(executor), executor.opened() as submit:
            pending = [submit(partial(_rows_of, seed)) for seed in args.seeds]
            for rows in pending:
                yield from rows()


def _rows_of(seed: int, args: argparse.Namespace) -> list[Row]:
    return list(of_seed(seed, args))


@kept_memory()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("network", help="resnet20, resnet56 or FILE.py:FACTORY=WEIGHTS")
    parser.add_argument("--strategies", nargs="+", default=["random", "uniform", "knapsack"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--budget", default="flops=0.5")
    parser.add_argument(
        "--contenders",
        type=int,
        help="looked at again; 1: the best candidate wins",
    )
    parser.add_argument("--seconds", type=float, help="of every search, instead of --trials")
    parser.add_argument("--judge", help="how candidates are repaired, by name")
    parser.add_argument("--correlated", type=int, default=0, help="candidates compared by rank")
    parser.add_argument("--workers", type=int, default=1, help="candidates evaluated at once")
    parser.add_argument("--ray", help="local, or the address of a cluster: seeds side by side")
    parser.add_argument("--output", type=Path, help="JSON; strategies-NETWORK.json by default")
    args = parser.parse_args()
    output = args.output or Path(f"strategies-{Path(args.network).stem}.json")
    rows: list[Row] = []
    for row in everywhere(args) if args.ray else here(args):
        rows.append(row)
        print(row, flush=True)
        output.write_text(json.dumps([asdict(one) for one in rows], indent=1) + "\n")
    print(f"{args.network}, {args.budget}, seeds {args.seeds}")
    print(f"{summary(rows)}\n{output}")


if __name__ == "__main__":
    main()

"""How well strategies keep many workers busy: schedules simulated from measured durations.

    python experiments/ray/schedule.py RUN --workers 64 --at-once 64 96

Every strategy asks as it does in a search, on a toy problem with the groups of ResNet-56; the
evaluations take what trials of the run RUN took, drawn at random, on workers of a simulated clock.
What a strategy itself takes is its processor time here, during which no work is handed out.

`efficiency` is the part of the workers' time in which candidates are evaluated, `speed-up` the
time of one worker divided by that of all; `strategy` is the part of the time that the strategy
takes.
"""

from __future__ import annotations

import argparse
import heapq
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from autoprune.agents.base import Strategy
from autoprune.agents.registry import make_strategy
from autoprune.core.policy import Widths
from autoprune.engine.executors import Pending
from autoprune.engine.loop import LoopLimits, Record, run_loop
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.evaluation.reward import NamedReward
from autoprune.study.ledger import Ledger, read_trials
from autoprune.study.run_directory import RunDirectory
from autoprune.study.trial import Candidate, Trial
from autoprune.testing.toy_problems import Toy, make_toy

GROUPS = [*[16] * 9, *[32] * 9, *[64] * 9]
STRATEGIES = (
    "random", "surrogate", "bayes", "local", "knapsack", "sensitivity", "netadapt", "evolution",
    "ddpg",
)  # fmt: skip


@dataclass(eq=False)
class Simulation:
    """Workers of a simulated clock.

    Attributes:
        workers: how many there are.
        durations: of evaluations, drawn from at random.
        now: seconds since the beginning.
        worked: seconds in which candidates were evaluated, of all workers.
        own: seconds of the strategy.
    """

    workers: int
    durations: Sequence[float]
    now: float = 0.0
    worked: float = 0.0
    own: float = 0.0
    free: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free = [(0.0, number) for number in range(self.workers)]
        self._random = np.random.default_rng(0)

    def begin(self) -> float:
        """Return when a candidate that is handed out now is evaluated."""
        free, worker = heapq.heappop(self.free)
        seconds = float(self._random.choice(self.durations))
        end = max(free, self.now) + seconds
        self.worked += seconds
        heapq.heappush(self.free, (end, worker))
        return end


class Timed(Strategy):
    """A strategy whose processor time passes on the simulated clock."""

    def __init__(self, inner: Strategy, clock: Simulation) -> None:
        self._inner, self._clock = inner, clock
        self.name, self.problem = inner.name, inner.problem

    def ask(self) -> Candidate | None:
        """Ask it."""
        return self._passing(self._inner.ask)

    def tell(self, trial: Trial) -> None:
        """Tell it."""
        self._passing(self._inner.tell, trial)

    def _passing(self, call: Any, *args: Any) -> Any:
        start = time.process_time()
        result = call(*args)
        spent = time.process_time() - start
        self._clock.now += spent
        self._clock.own += spent
        return result


def simulate(name: str, toy: Toy, clock: Simulation) -> int:
    """Let a strategy search; return how many trials it made."""

    def evaluate(
        candidate: Candidate, incumbent: Widths | None, alone: bool
    ) -> Pending[Measurement]:
        end = clock.begin()

        def wait() -> Measurement:
            clock.now = max(clock.now, end)
            scores = Scores(kl=-float(toy.value(candidate.widths)))
            names = toy.problem.space.names
            return Measurement(candidate.widths, names, scores, Scores(kl=0.0), {}, {}, {})

        return wait

    problem = toy.problem
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(problem.space, f"sqlite:///{folder}/study.db")
        strategy = Timed(make_strategy(name, problem), clock)
        reward = NamedReward("kl", lambda found: -(found.scores.kl or 0.0))
        limits = LoopLimits(problem.trials, at_once=problem.at_once)
        run_loop(strategy, evaluate, Record(ledger, reward), limits)
        return len(ledger)


def durations_of(run: Path) -> list[float]:
    """Return what the trials of a run took."""
    with RunDirectory(run).stored_study() as study:
        trials = read_trials(study)
    return [sum(t.measurement.seconds.values()) for t in trials if t.measurement is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--at-once", nargs="+", type=int, default=[64, 96])
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--mean", type=float, help="seconds that the durations are scaled to")
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    durations = durations_of(args.run)
    if args.mean is not None:
        durations = [args.mean * one / float(np.mean(durations)) for one in durations]
    spread = np.std(durations) / np.mean(durations)
    print(f"{len(durations)} durations, mean {np.mean(durations):.2f} s, spread {spread:.0%}")
    print("| strategy | at once | trials | efficiency | speed-up | strategy |")
    print("|---|---|---|---|---|---|")
    for name in args.strategies:
        for at_once in args.at_once:
            toy = make_toy(GROUPS)
            toy = replace(toy, problem=replace(toy.problem, trials=args.trials, at_once=at_once))
            clock = Simulation(args.workers, durations)
            trials = simulate(name, toy, clock)
            speed_up = clock.worked / clock.now
            print(
                f"| {name} | {at_once} | {trials} | {speed_up / args.workers:.0%} | "
                f"{speed_up:.1f} | {clock.own / clock.now:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""The search up to a winner that holds: what it is predicted to take is measured, and misses count.

A winner whose measured latency misses its bound tightens the bound by as much, and the search goes
on in another round: trials that meet the tighter bound stay in the running.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from autoprune.agents.base import SearchProblem, Strategy
from autoprune.agents.registry import AUTO, FALLBACK, make_strategy, resolve
from autoprune.core.progress import Progress
from autoprune.core.untrusted import label, or_none, table, text
from autoprune.cost.budget import Budget
from autoprune.cost.latency.figures import LatencyFigures
from autoprune.engine.clock import Session
from autoprune.engine.evaluators import Bench
from autoprune.engine.exploration import explore
from autoprune.engine.finalists import UNSIFTED, Finalist, run_off, shortlist
from autoprune.engine.latency_bound import is_miss, overshoot, tightened
from autoprune.engine.loop import LoopReport, SearchFailed
from autoprune.errors import AutopruneError, first_line, shown
from autoprune.evaluation.evaluator import timed
from autoprune.evaluation.reward import Reward
from autoprune.options.search import SearchConfig
from autoprune.profiling.verifier import Verifier
from autoprune.study.ledger import FIRST_ROUND, Ledger

# How often a miss tightens the bound, and the part of the trials that goes on after each.
MOST_ROUNDS = 4
EXTRA_TRIALS = 0.25
# What the record calls the strategy that "auto" stands for.
CHOSEN = "strategy"


def _choice(data: Any) -> tuple[str, dict[str, str | None]]:
    """Read the name and the options of a strategy.

    Raises:
        ValueError: there are none.
    """
    if not isinstance(data, list) or len(data) != 2:
        raise ValueError(f"{shown(data)} is no strategy with its options")
    return text(data[0]), table(or_none(label))(data[1])


@dataclass(frozen=True, eq=False)
class Contest:
    """What a search, or a round of it, ended with.

    Attributes:
        strategy: who chose.
        exploration: how the search went.
        finalist: the winner.
        latency: its predicted and measured latency; None without a latency table.
    """

    strategy: Strategy
    exploration: LoopReport
    finalist: Finalist
    latency: LatencyFigures | None = None


@dataclass(frozen=True, eq=False)
class Arena:
    """All that the rounds of one search have in common.

    Attributes:
        config: the options.
        bench: who builds and judges candidates.
        reward: values measurements.
        ledger: every trial.
        session: the time.
        progress: told what happens.
        verifier: measures latencies; None without a latency table.
    """

    config: SearchConfig
    bench: Bench
    reward: Reward
    ledger: Ledger
    session: Session
    progress: Progress
    verifier: Verifier | None

    def hold(
        self, problem: SearchProblem, name: str = FIRST_ROUND, left: int | None = None
    ) -> Contest:
        """Search until there is a winner that keeps to the budget as measured.

        After `MOST_ROUNDS` a miss is handed over, and said to be one.

        Args:
            problem: what is searched.
            name: of the round.
            left: how many such searches the time must do for; None for a search without others.
        """
        contest = self._round(problem, name, left)
        more = max(round(EXTRA_TRIALS * problem.trials), UNSIFTED)
        for again in range(MOST_ROUNDS):
            factor = self._overshoot(contest)
            if not is_miss(factor):
                return contest
            self.progress.note(f"the winner's measured latency is {factor:.3f} of its bound")
            try:
                projection = tightened(contest.strategy.problem.projection, factor)
                tighter = replace(problem, projection=projection, trials=more)
                contest = self._round(tighter, f"{name}.{again + 1}", left)
            except SearchFailed:
                raise
            except AutopruneError as error:  # what there is, is handed over
                self.progress.note(f"the bound cannot be tightened any more: {first_line(error)}")
                return contest
        if is_miss(self._overshoot(contest)):
            self.progress.note("the latency bound is still missed: see costs.latency of the result")
        return contest

    def _overshoot(self, contest: Contest) -> float:
        limit = Budget.parse(self.config.budget).limits.get("latency")
        figures = contest.latency
        return 0.0 if figures is None or limit is None else overshoot(figures, limit)

    def _round(self, problem: SearchProblem, name: str, left: int | None) -> Contest:
        session, ledger = self.session, self.ledger
        stop, deadline = session.part(left)
        plan = replace(problem, trials=ledger.begin_round(name, problem.trials))
        strategy = self._strategy(plan)
        report = explore(
            strategy, problem.trials, self.bench, self.reward, ledger, stop, self.progress
        )
        session.seconds["strategy"] += report.strategy_seconds
        with timed(session.seconds, "finalists"):
            best = ledger.best(len(ledger), problem.projection.fits)
            uniform = problem.projection.uniform()
            contenders = shortlist(best, self.bench, {uniform})
            finalist = run_off(contenders, self.bench, self.reward, self.progress, deadline)
        session.count(*finalist.forwards)
        ledger.keep_session(session.took)
        return Contest(strategy, report, finalist, self._figures(finalist))

    def _strategy(self, problem: SearchProblem) -> Strategy:
        """Return the strategy that the search was begun with, or begins with now."""
        config, ledger = self.config, self.ledger
        chosen: Sequence[Any] = config.strategy, config.strategy_options
        if config.strategy == AUTO:
            # A run from before this was written down had the only one that there was.
            first = [FALLBACK, {}] if len(ledger) else resolve(AUTO, problem, **chosen[1])
            chosen = ledger.remarked(CHOSEN, _choice) or first
            ledger.remark(CHOSEN, chosen)
        name, options = chosen
        return make_strategy(name, problem, **options)

    def _figures(self, finalist: Finalist) -> LatencyFigures | None:
        if self.verifier is None:
            return None
        one = finalist.measurement
        predicted = one.dense_costs["latency"], one.costs["latency"]
        try:
            return self.verifier.figures(finalist.network, *predicted)
        except Exception as error:  # a compiler, exporter or device that fails on this network
            self.progress.note(f"the winner was not measured: {first_line(error)}")
            return self.verifier.figures(None, *predicted)

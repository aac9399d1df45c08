"""The search up to a winner that holds: its latency is measured, and a miss starts another round.

A winner whose measured latency misses its bound tightens the bound by as much, and the search goes
on in another round: trials that meet the tighter bound stay in the running.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from autoprune.agents.base import SearchProblem, Strategy
from autoprune.agents.config import stored
from autoprune.agents.registry import AUTO, FALLBACK, KIND, make_strategy, resolve
from autoprune.core.policy import Widths
from autoprune.core.records import Name, Real, Table, Text, Width, plain
from autoprune.cost.budget import Budget
from autoprune.cost.latency.figures import LatencyFigures
from autoprune.engine.context import SearchContext
from autoprune.engine.evaluators import Evaluators
from autoprune.engine.executors import Executor, Pending, Submit
from autoprune.engine.finalists import Finalist, make_shortlist, select_winner
from autoprune.engine.known_scores import KnownScores
from autoprune.engine.latency_bound import is_miss, overshoot, tightened
from autoprune.engine.loop import (
    LoopLimits,
    LoopReport,
    Record,
    SearchFailed,
    run_loop,
)
from autoprune.engine.round_progress import RoundProgress
from autoprune.errors import AutopruneError, RunError, counted, first_line
from autoprune.evaluation.measurement import Measurement
from autoprune.options.kinds import LARGEST_SEED
from autoprune.profiling.verifier import Verifier
from autoprune.study.ledger import Ledger
from autoprune.study.stored_trials import FIRST_ROUND
from autoprune.study.trial import Candidate, Trial

# What the record calls the strategy that "auto" stands for.
CHOSEN = "strategy"
# All its options by its name, so that a resumed search has them whatever today's defaults are.
CONFIG = "strategy_config"

log = logging.getLogger(__name__)


class _Latency(msgspec.Struct, frozen=True):
    """A winner's widths, and its predicted and measured latency in ms, (dense, pruned) each."""

    widths: tuple[Width, ...]
    predicted: tuple[Real, ...]
    measured: tuple[Real, ...]


@dataclass(frozen=True, eq=False)
class RoundResult:
    """What a search, or a round of it, ended with.

    Attributes:
        strategy: who chose.
        loop: how the search went.
        finalist: the winner.
        latency: its predicted and measured latency; None without a latency table.
    """

    strategy: Strategy
    loop: LoopReport
    finalist: Finalist
    latency: LatencyFigures | None = None


@dataclass(frozen=True, eq=False)
class Rounds:
    """Searches that share evaluators and a record.

    Attributes:
        context: of the search.
        executor: where candidates and finalists are evaluated, by the evaluators of the search.
        ledger: every trial.
        verifier: measures latencies; None without a latency table.
    """

    context: SearchContext
    executor: Executor[Evaluators]
    ledger: Ledger
    verifier: Verifier | None

    def run(
        self, problem: SearchProblem, name: str = FIRST_ROUND, rounds_left: int | None = None
    ) -> RoundResult:
        """Search until there is a winner that keeps to the budget as measured.

        After the last round a miss is handed over, and said to be one.

        Args:
            problem: what is searched.
            name: of the round.
            rounds_left: how many such searches share the time that is left; None for a single one.
        """
        limits = self.context.limits.rounds
        result = self._once(problem, name, rounds_left)
        more = max(round(limits.extra_trials * problem.trials), limits.fewest)
        for again in range(limits.most):
            factor = self._overshoot(result)
            if not is_miss(factor):
                return result
            log.info("the winner's measured latency is %.3f of its bound", factor)
            try:
                projection = tightened(result.strategy.problem.projection, factor)
                tighter = replace(problem, projection=projection, trials=more)
                result = self._once(tighter, f"{name}.{again + 1}", rounds_left)
            except SearchFailed:
                raise
            except AutopruneError as error:  # what there is, is handed over
                log.info("the bound cannot be tightened any more: %s", first_line(error))
                return result
        if is_miss(self._overshoot(result)):
            log.warning("the latency bound is still missed: see costs.latency of the result")
        return result

    def _overshoot(self, result: RoundResult) -> float:
        limit = Budget.parse(self.context.config.budget).limits.get("latency")
        figures = result.latency
        return 0.0 if figures is None or limit is None else overshoot(figures, limit)

    def _once(self, problem: SearchProblem, name: str, rounds_left: int | None) -> RoundResult:
        context, ledger, clock = self.context, self.ledger, self.context.clock
        stop, deadline = clock.share(rounds_left)
        plan = replace(
            problem,
            trials=ledger.begin_round(name, problem.trials),
            known=ledger.taken_over,
            seed=(problem.seed + ledger.seed_offset) % (LARGEST_SEED + 1),
        )
        strategy = self._strategy(plan)
        limits = LoopLimits(problem.trials, stop, problem.at_once)
        report = explore(context, self.executor, ledger, strategy, limits)
        clock.add("strategy", report.strategy_seconds)
        with clock.stage("finalists"):
            best = ledger.best(len(ledger), problem.projection.fits)
            always = {problem.projection.uniform()}
            evaluators, space = self.executor.subject, problem.space
            shortlist = make_shortlist(context, evaluators, space, best, always)
            shortlist = shortlist[: strategy.finalists]
            finalist = select_winner(context, self.executor, shortlist, deadline)
        clock.count(*finalist.forwards)
        ledger.keep_session(clock.took)
        return RoundResult(strategy, report, finalist, self._figures(name, finalist))

    def _strategy(self, problem: SearchProblem) -> Strategy:
        """Return the strategy that the search was begun with, or begins with now."""
        config, ledger = self.context.config, self.ledger
        chosen: Sequence[Any] = config.strategy, config.strategy_options
        if config.strategy == AUTO:
            # A run from before this was written down had the only one that there was.
            first = [FALLBACK, {}] if ledger.own_of_round else resolve(AUTO, problem, **chosen[1])
            key = ledger.own_key(CHOSEN)
            chosen = ledger.remarked(key, tuple[Text, Table[Name | None]]) or first
            ledger.remark(key, chosen)
        name, options = chosen
        key, title = ledger.own_key(CONFIG), KIND.name_of(name)
        known = ledger.remarked(key, Table[Table[Any]]) or {}
        strategy = make_strategy(name, problem, known.get(title), **options)
        if title not in known:
            ledger.remark(key, {title: stored(strategy.config)})
        return strategy

    def _figures(self, name: str, finalist: Finalist) -> LatencyFigures | None:
        """Return the latency of a round's winner, which a resumed search does not measure again.

        Two measurements differ, and the bounds of later rounds follow from this one.
        """
        if self.verifier is None:
            return None
        one, key = finalist.measurement, self.ledger.own_key(f"latency of round {name}")
        predicted = one.dense_costs["latency"], one.costs["latency"]
        known = self.ledger.remarked(key, _Latency)
        if known is not None and (known.widths, known.predicted) == (one.widths, predicted):
            return replace(self.verifier.figures(None, *predicted), measured_ms=known.measured)
        try:
            figures = self.verifier.figures(finalist.network, *predicted)
        except Exception as error:  # a compiler, exporter or device that fails on this network
            log.info("the winner was not measured: %s", first_line(error))
            return self.verifier.figures(None, *predicted)
        if figures.measured_ms is not None:
            found = _Latency(one.widths, predicted, figures.measured_ms)
            self.ledger.remark(key, plain(found))
        return figures


def explore(
    context: SearchContext,
    executor: Executor[Evaluators],
    ledger: Ledger,
    strategy: Strategy,
    limits: LoopLimits,
) -> LoopReport:
    """Run the loop with the search evaluator, and tell the user how it goes.

    Args:
        context: of the search.
        executor: where candidates are evaluated.
        ledger: holds the trials.
        strategy: who asks; it may have planned for another number of trials.
        limits: of the round.

    Raises:
        RunError: no trial succeeded.
        SearchFailed: trial after trial failed.
    """
    problem, before = strategy.problem, len(ledger.of_round)
    log.info(
        "%s: up to %s over %s%s%s",
        strategy.name,
        counted(limits.trials, "trial"),
        counted(len(problem.space), "group"),
        f", {before} of them done before" if before else "",
        f"; it was begun for {problem.trials}, and keeps to that plan"
        if problem.trials != limits.trials
        else "",
    )
    progress = RoundProgress(ledger, problem, limits)

    def tell(trial: Trial) -> None:
        context.progress.searched(progress.after(trial, executor.busy))

    with executor.opened(context.config.trial_timeout) as submit:
        report = run_loop(
            strategy,
            _Evaluations(submit, executor.subject.stops_early, limits.at_once).begin,
            Record(ledger, context.reward, tell),
            limits,
        )
    made = len(ledger.of_round)
    if made < limits.trials and not report.timed_out:
        log.info(
            "%s has nothing else to try after %d of %d trials", strategy.name, made, limits.trials
        )
    if not ledger.best(1, problem.projection.fits):
        raise RunError(_nothing_succeeded(strategy, ledger))
    return report


@dataclass(frozen=True, eq=False)
class _Evaluations:
    """Evaluations of candidates, wherever they take place.

    Attributes:
        submit: begins a piece of work.
        stops_early: whether a candidate that is surely worse than the incumbent is given up.
        at_once: how many are on their way together.
        known: scores of those that were measured lately.
    """

    submit: Submit
    stops_early: bool
    at_once: int
    known: KnownScores = field(default_factory=KnownScores)

    def begin(
        self, candidate: Candidate, incumbent: Widths | None, alone: bool
    ) -> Pending[Measurement]:
        """Begin to measure a candidate; only one that can win is compared with the incumbent."""
        is_compared = self.stops_early and candidate.kind == "candidate"
        # A base is held for candidates that come one after the other.
        base = candidate.base if self.at_once == 1 else None
        work = self.known.work(candidate.widths, base, incumbent if is_compared else None)
        return self.known.learning(self.submit(work, alone=alone))


def _nothing_succeeded(strategy: Strategy, ledger: Ledger) -> str:
    if not ledger.made:
        return f"the strategy {strategy.name!r} proposed nothing: no trial was made."
    failed = [trial.error.rstrip(".") for trial in ledger if trial.error]
    if not failed:
        return "no trial succeeded before the search ended; give it more time or trials."
    return (
        f"no trial succeeded before the search ended, the last one because {failed[-1]}; every "
        "trial is kept: resume the run with more trials when the cause is mended."
    )

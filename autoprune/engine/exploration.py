"""The search itself: one strategy, the judge, and a limit of trials or time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from autoprune.agents.base import SearchProblem, Strategy
from autoprune.core.policy import Widths
from autoprune.core.progress import Progress, SearchState
from autoprune.engine.evaluators import QUICK, Bench
from autoprune.engine.loop import Evaluation, LoopReport, run_loop
from autoprune.engine.problem import Task
from autoprune.errors import RunError
from autoprune.evaluation.reward import Reward
from autoprune.options.search import SearchConfig
from autoprune.search_spaces.group_features import describe
from autoprune.study.ledger import Ledger
from autoprune.study.trial import Candidate, Trial


def default_trials(groups: int, judge: str) -> int:
    """Return how many evaluations a search of so many groups gets if nobody says.

    Far fewer where the judge repairs candidates as a whole: that takes three times as long, and
    tells more.
    """
    least, each = (30, 1) if judge == QUICK else (40, 4)
    return min(max(least, each * groups), 400)


def pose(task: Task, bench: Bench, config: SearchConfig) -> SearchProblem:
    """Return what the strategy is given to work with."""
    return SearchProblem(
        space=task.space,
        projection=task.projection,
        costs=task.costs,
        rankings=bench.builder.rankings,
        group_features=describe(task.structure),
        trials=config.trials or default_trials(len(task.space), bench.judge_name),
        seed=config.seed,
        workers=config.workers,
    )


def explore(
    strategy: Strategy,
    trials: int,
    bench: Bench,
    reward: Reward,
    ledger: Ledger,
    deadline: float,
    progress: Progress,
) -> LoopReport:
    """Search until the limit of trials or time.

    Args:
        strategy: who asks.
        trials: of the round at the end; the strategy may have planned for others.
        bench: who builds and judges candidates.
        reward: values measurements.
        ledger: holds the trials.
        deadline: in `time.monotonic` seconds.
        progress: told what happens.

    Raises:
        RunError: no trial succeeded.
        SearchFailed: trial after trial failed.
    """
    planned, fits = strategy.problem.trials, strategy.problem.projection.fits
    before = len(ledger.of_round)
    progress.note(
        f"{strategy.name}: up to {trials} trials over {len(strategy.problem.space)} groups"
        + (f", {before} of them done before" if before else "")
        + (f"; it was begun for {planned}, and keeps to that plan" if planned != trials else "")
    )

    workers = strategy.problem.workers

    def measure(candidate: Candidate, leader: Widths | None) -> Evaluation:
        rival = leader if bench.races and candidate.kind == "candidate" else None
        # A base is held for candidates that come one after the other.
        base = candidate.base if workers == 1 else None
        return partial(bench.judge.measure, candidate.widths, base, rival)

    teller = _teller(ledger, fits, trials, progress)
    report = run_loop(strategy, measure, reward, ledger, trials, deadline, teller, workers)
    made = len(ledger.of_round)
    if made < trials and not report.timed_out:
        progress.note(f"{strategy.name} has nothing else to try after {made} of {trials} trials")
    if not ledger.best(1, fits):
        failed = [trial.error for trial in ledger if trial.error]
        raise RunError(
            "no trial succeeded before the search ended; "
            + (f"the last one failed because {failed[-1]}; " if failed else "")
            + "give it more time or trials."
        )
    return report


def _teller(
    ledger: Ledger, fits: Callable[[Widths], bool], trials: int, progress: Progress
) -> Callable[[Trial], None]:
    def tell(trial: Trial) -> None:
        done, detail = len(ledger.of_round), "failed"
        if trial.measurement is None or trial.value is None:
            progress.note(f"trial {done} failed: {trial.error}")
        else:
            scores = trial.measurement.scores
            shown = {"kl": scores.kl, "top1": scores.top1, "score": scores.custom}
            detail = ", ".join(f"{k} {v:.4f}" for k, v in shown.items() if v is not None)
        best = [trial.value for trial in ledger.best(1, fits)]
        progress.searched(SearchState(done, trials, best[0] if best else None, detail))

    return tell

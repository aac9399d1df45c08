"""How far a search is, from its run directory alone, whoever runs it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from autoprune.errors import counted
from autoprune.options.stored import stored_settings
from autoprune.reporting.wording import duration, number, percent
from autoprune.study.ledger import read_trials
from autoprune.study.run_directory import RunDirectory
from autoprune.study.run_log import Standing, load_standing
from autoprune.study.trial import Trial

State: TypeAlias = Literal["running", "interrupted", "finished"]


@dataclass(frozen=True)
class Best:
    """The best trial so far.

    Attributes:
        value: its reward.
        kl, top1, custom: its scores, where they are known.
        costs: what is left of every cost, as a share of the dense network's.
    """

    value: float
    kl: float | None
    top1: float | None
    custom: float | None
    costs: Mapping[str, float]


@dataclass(frozen=True)
class Status:
    """How far a search is.

    Attributes:
        state: a search is interrupted if no process is known that goes on with it.
        process: that writes here; None if there is none.
        budget: that was asked for; None if there is none.
        trials, failed: that are recorded, and those of them that failed; None if they are not in
            the run.
        storage: that has them then.
        best: the best candidate so far; it need not keep to a budget that was tightened since.
        stage: the session's last; None if it is over or not known.
        done, total: of the stage.
        evaluations_per_minute: of the session; None unless it searches.
        seconds_left: of the stage.
        quiet_seconds: since the search said anything; None if it is over.
    """

    state: State
    process: str | None
    budget: str | None
    trials: int | None
    failed: int | None
    storage: str | None
    best: Best | None
    stage: str | None
    done: int | None
    total: int | None
    evaluations_per_minute: float | None
    seconds_left: float | None
    quiet_seconds: float | None


def read_status(run: RunDirectory) -> Status:
    """Return how far a search is; nothing is written, and no lock taken.

    Raises:
        RunError: there is no run, or a file of it is damaged.
        UsageError: a value in its configuration cannot be meant.
    """
    config = stored_settings(run)
    trials, storage = _trials(run), run.shared_storage
    holder = None if run.is_finished else run.holder
    standing = None if run.is_finished else load_standing(run)
    is_running = holder is not None and not holder.is_dead
    state: State = "finished" if run.is_finished else "running" if is_running else "interrupted"
    return Status(
        state=state,
        process=str(holder) if is_running else None,
        budget=config.get("budget"),
        trials=None if storage else len(trials),
        failed=None if storage else sum(trial.value is None for trial in trials),
        storage=storage,
        best=_best(trials),
        **_of_stage(standing, is_running),
    )


def _trials(run: RunDirectory) -> tuple[Trial, ...]:
    if not run.has_study:
        return ()
    with run.stored_study() as study:
        return read_trials(study)


def _of_stage(standing: Standing | None, is_running: bool) -> dict[str, Any]:
    """Return what is known of the stage; paces and times are those of a search that goes on."""
    if standing is None:
        names = ("stage", "done", "total", "evaluations_per_minute", "seconds_left")
        return dict.fromkeys((*names, "quiet_seconds"))
    searches = is_running and standing.stage == "search"
    return {
        "stage": standing.stage,
        "done": standing.done,
        "total": standing.total,
        "evaluations_per_minute": standing.per_minute if searches else None,
        "seconds_left": standing.seconds_left if is_running else None,
        "quiet_seconds": max(0.0, time.time() - standing.at),
    }


def _best(trials: tuple[Trial, ...]) -> Best | None:
    able = [
        (trial.value, trial.measurement)
        for trial in trials
        if trial.value is not None and trial.measurement and trial.candidate.kind == "candidate"
    ]
    if not able:
        return None
    value, found = max(able, key=lambda pair: pair[0])
    scores, dense = found.scores, found.dense_costs
    costs = {name: cost / dense[name] for name, cost in found.costs.items() if dense.get(name)}
    return Best(value, scores.kl, scores.top1, scores.custom, costs)


def in_words(status: Status) -> list[str]:
    """Return a status in lines for people."""
    lines = [f"{status.state}" + (f" by {status.process}" if status.process else "")]
    lines.append(f"{_trials_in_words(status)}; budget {status.budget or 'none'}")
    if status.best is not None:
        lines.append(f"best so far: {_best_in_words(status.best)}")
    if status.stage is not None:
        lines.append(_stage_in_words(status))
    return lines


def _trials_in_words(status: Status) -> str:
    if status.trials is None:
        return f"trials are in the storage {status.storage} until the search is finished"
    failed = f", {status.failed} of them failed" if status.failed else ""
    return f"{counted(status.trials, 'trial')}{failed}"


def _best_in_words(best: Best) -> str:
    scores = {"KL": number(best.kl), "score": number(best.custom), "top-1": percent(best.top1)}
    known = {"KL": best.kl, "score": best.custom, "top-1": best.top1}
    parts = [f"reward {number(best.value)}"]
    parts += [f"{name} {text}" for name, text in scores.items() if known[name] is not None]
    costs = ", ".join(f"{name} {percent(share)}" for name, share in best.costs.items())
    return f"{', '.join(parts)}; of the dense network: {costs}"


def _stage_in_words(status: Status) -> str:
    parts = [f"stage {status.stage}: {status.done} of {status.total}"]
    if status.evaluations_per_minute is not None:
        parts.append(f"{number(status.evaluations_per_minute)} evaluations a minute")
    if status.seconds_left is not None:
        parts.append(f"{duration(status.seconds_left)} left in this stage")
    parts.append(f"last heard of {duration(status.quiet_seconds)} ago")
    return "; ".join(parts)

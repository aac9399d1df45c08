"""One search, from the problem to the result: its stages, one after the other."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from autoprune.agents.base import SearchProblem
from autoprune.core.policy import PruningPolicy
from autoprune.core.records import plain
from autoprune.cost.latency.model import LatencyCost
from autoprune.engine.begin import own_settings, write_settings
from autoprune.engine.context import SearchContext
from autoprune.engine.evaluators import Evaluators, make_evaluators
from autoprune.engine.executors import Executor, LocalExecutor
from autoprune.engine.fingerprint import KEY as FINGERPRINT
from autoprune.engine.fingerprint import Fingerprint, study_name
from autoprune.engine.group_facts import describe_groups
from autoprune.engine.latency_table import verifying_backend
from autoprune.engine.max_drop import Smallest, check_metric, find_smallest
from autoprune.engine.problem import PruningProblem, make_problem
from autoprune.engine.ray_executor import RayExecutor
from autoprune.engine.recover import recover_winner
from autoprune.engine.rounds import RoundResult, Rounds
from autoprune.engine.search_problem import search_problem
from autoprune.engine.summary import Found, summarize
from autoprune.engine.tracked import tracked
from autoprune.engine.warm_start import take_over
from autoprune.errors import AutopruneError, counted, spelt
from autoprune.evaluation.reward import on_the_scale_of
from autoprune.profiling.verifier import Verifier
from autoprune.study.group_records import GroupRecords
from autoprune.study.ledger import Ledger
from autoprune.study.run_log import logged

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Groundwork:
    """What searches of one network on the same images share, whatever their budgets are."""

    problem: PruningProblem
    evaluators: Evaluators


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The winner of a search, as it was written into the run directory."""

    network: nn.Module
    policy: PruningPolicy
    result: Mapping[str, Any]


def lay_groundwork(context: SearchContext) -> Groundwork:
    """Trace the network, gather its statistics and choose the search evaluator."""
    with context.clock.stage("structure"):
        problem = make_problem(context)
    evaluators = make_evaluators(context, problem)
    _check_dense(context, evaluators)
    return Groundwork(problem, evaluators)


def run_search(
    context: SearchContext, groundwork: Groundwork, settings: Mapping[str, Any]
) -> SearchResult:
    """Run all stages of a search; what each one ends with is in the run directory at once.

    Args:
        context: of the search.
        groundwork: of this search, or of another one that differs by its budget alone.
        settings: what `config.toml` says of a new run.
    """
    evaluators = groundwork.evaluators
    write = partial(write_settings, context, settings, evaluators)
    ledger = _open_ledger(context, groundwork, write)
    with closing(ledger):
        return _searched(context, groundwork, ledger, settings)


def _searched(
    context: SearchContext, groundwork: Groundwork, ledger: Ledger, settings: Mapping[str, Any]
) -> SearchResult:
    """Do the same with the record of the search, which is open."""
    run, clock = context.run, context.clock
    problem, evaluators = groundwork.problem, groundwork.evaluators
    with _left_only_with_trials(context, ledger):
        take_over(context, problem, ledger, own_settings(context, settings, evaluators))
    context = _valued_as_before(context, ledger)
    ledger.remark(FINGERPRINT, plain(Fingerprint.of(context)))
    with (
        _left_only_with_trials(context, ledger),
        clock.recorded(ledger),
        tracked(context) as watched,
        logged(run, watched) as progress,
    ):
        context = replace(context, progress=progress)
        searched = search_problem(context, problem, evaluators)
        with executor_of(context, evaluators) as executor:  # workers are given up before recovery
            rounds = Rounds(context, executor, ledger, _verifier(context, problem))
            result, smallest = _run_rounds(rounds, searched)
        if result.strategy.save(run.agent_path):
            how = spelt("agent", str(run.path))
            log.info("what it learnt is in %s: use it with %s", run.agent_path, how)
        policy = evaluators.builder.policy(result.finalist.measurement.widths)
        run.save_policy(policy)
        run.save_weights(result.finalist.network)
        winner = recover_winner(context, problem, evaluators, result.finalist)
        if winner.recovered is not None:
            run.save_recovered(winner.network)
        trials = searched.trials if smallest is None else smallest.trials
        found = Found(result, winner, trials, smallest)
        summary = summarize(context, problem, evaluators, ledger, found)
        if context.config.storage is not None:
            run.save_study(ledger.copy_to)
        run.save_groups(_groups(problem, evaluators, ledger, found))
        run.save_result(summary)
        run.remove_state()
    return SearchResult(winner.network, policy, summary)


@contextmanager
def executor_of(context: SearchContext, evaluators: Evaluators) -> Iterator[Executor[Evaluators]]:
    """Give where candidates are evaluated: on the cluster if there is one, else in this process."""
    if context.cluster is None:
        yield LocalExecutor(evaluators, context.workers)
        return
    with closing(RayExecutor(context.cluster, evaluators, context.workers)) as executor:
        yield executor


def _groups(
    problem: PruningProblem, evaluators: Evaluators, ledger: Ledger, found: Found
) -> GroupRecords:
    winner = problem.structure.left(found.winner.finalist.measurement.widths)
    evaluated = [trial.candidate.widths for trial in ledger]
    return describe_groups(problem, evaluators.builder.rankings, winner, evaluated)


def _open_ledger(
    context: SearchContext, groundwork: Groundwork, write: Callable[[], None]
) -> Ledger:
    """Open the record; a resumed run stays as it is if that fails, a new one is made first."""
    if not context.begun:
        write()
        try:
            return _ledger(context, groundwork)
        except AutopruneError:
            context.run.discard()
            raise
    ledger = _ledger(context, groundwork)
    write()
    return ledger


def _ledger(context: SearchContext, groundwork: Groundwork) -> Ledger:
    """Open the run's own record, or that of the processes that search together."""
    url, run, space = context.config.storage, context.run, groundwork.problem.space
    if url is None:
        return Ledger(space, run.storage)
    from autoprune.study.shared_ledger import SharedLedger, SharedStudy

    settings = {**context.config.to_mapping(), "latency_table": _table_digest(groundwork.problem)}
    name = study_name(Fingerprint.of(context), settings, groundwork.evaluators)
    limits = context.limits.storage
    shared = SharedStudy(url, name, run.identity, limits.heartbeat, limits.patience)
    ledger = SharedLedger(space, shared)
    log.info("searches the study %s, which holds %s", name, counted(len(ledger), "trial"))
    return ledger


@contextmanager
def _left_only_with_trials(context: SearchContext, ledger: Ledger) -> Iterator[None]:
    """Leave nothing behind of a new run that fails before its first trial."""
    try:
        yield
    except Exception:
        if not (context.begun or len(ledger)):
            context.run.discard()
        raise


def _check_dense(context: SearchContext, evaluators: Evaluators) -> None:
    if context.config.max_drop is not None:
        check_metric(evaluators.dense)
    if (dense := evaluators.dense.metric) is not None:
        log.info("the dense network scores %.4f on the search images", dense)


def _valued_as_before(context: SearchContext, ledger: Ledger) -> SearchContext:
    """Return the context with the reward on the scale of the trials that there are."""
    earlier = (trial.measurement for trial in ledger if trial.measurement)
    return replace(context, reward=on_the_scale_of(context.reward, earlier))


def _run_rounds(rounds: Rounds, problem: SearchProblem) -> tuple[RoundResult, Smallest | None]:
    """Search under the budget, or under ever narrower ones where a loss is given instead."""
    config = rounds.context.config
    if config.max_drop is None:
        return rounds.run(problem), None
    smallest = find_smallest(rounds, problem, config.max_drop, config.minimize or "flops")
    return smallest.result, smallest


def _table_digest(problem: PruningProblem) -> str | None:
    """Return a digest of the latency table, wherever it lies; None without one."""
    latency = problem.costs.get(LatencyCost.name)
    if not isinstance(latency, LatencyCost):
        return None
    return hashlib.sha256(json.dumps(plain(latency.table)).encode()).hexdigest()


def _verifier(context: SearchContext, problem: PruningProblem) -> Verifier | None:
    """Return what measures the winner; None where no latency is predicted."""
    latency = problem.costs.get(LatencyCost.name)
    if not isinstance(latency, LatencyCost):
        return None
    backend = verifying_backend(latency.table, context.config)
    return Verifier(context.model, context.inputs, latency.table, backend)

"""What there is to say about the width of a layer: its curve, its cost, the trials beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import fmean

from autoprune.cost import cost_class
from autoprune.cost.budget import Budget
from autoprune.cost.registry import COSTS
from autoprune.errors import UsageError, did_you_mean
from autoprune.reporting.run_records import RunRecord
from autoprune.reporting.scores import kinds_of
from autoprune.study.group_records import FrozenRecord, GroupRecord, Step
from autoprune.study.trial import Trial

# Trials that are shown on either side of the winner's width.
MOST_TRIALS = 3


@dataclass(frozen=True)
class StepFacts:
    """The winner with another width of one group.

    Attributes:
        width: the other width.
        saved: cost that it saves, as a part of the dense network's; below zero if it costs more.
        added: loss that is expected on top of the winner's; below zero if it loses less. None if
            losses are not known.
    """

    width: int
    saved: float
    added: float | None

    @property
    def price(self) -> float | None:
        """The loss for each percent of the dense cost that is saved; None if nothing is."""
        if self.added is None or not self.saved:
            return None
        return self.added / (100 * self.saved)


@dataclass(frozen=True)
class TrialFacts:
    """A trial beside the winner.

    Attributes:
        number: of the trial, from 1.
        width: of the group.
        apart: mean difference of the keep ratios of the other groups from the winner's.
        cost: as a part of the dense network's.
        score: on the search samples.
    """

    number: int
    width: int
    apart: float
    cost: float | None
    score: float | None


@dataclass(frozen=True)
class GroupFacts:
    """What there is to say about one group.

    Attributes:
        name: of the group.
        size: units of the dense network.
        kept: units of the winner.
        cost: the name of the cost that the shares are of: the first one that the budget bounds.
        share: the part of it that goes if the group goes; None in runs of older versions.
        half_cut: loss that is expected if half of the group, and nothing else, is cut.
        now: the same at the winner's width.
        fewer, more: the next widths; None where there is none, or in runs of older versions.
        members: the weights that share the channels.
        trials: some that differ from the winner here, the most similar ones first.
    """

    name: str
    size: int
    kept: int
    cost: str
    share: float | None = None
    half_cut: float | None = None
    now: float | None = None
    fewer: StepFacts | None = None
    more: StepFacts | None = None
    members: tuple[str, ...] = ()
    trials: tuple[TrialFacts, ...] = ()


def find_group(run: RunRecord, layer: str) -> str | FrozenRecord:
    """Return the group that a layer's width belongs to, or why it is frozen.

    Args:
        run: a run.
        layer: the name of a group, or of a layer that makes its channels.

    Raises:
        UsageError: there is no such layer.
    """
    known: dict[str, str | FrozenRecord] = {}
    if run.groups is not None:
        for group in run.groups.groups:
            known |= {one.removesuffix(".weight"): group.name for one in group.members.producers}
        known |= {one.name: one for one in run.groups.frozen}
    known |= {name: name for name in run.result.widths}
    if layer not in known:
        raise UsageError(
            f"the network of {str(run.path)!r} has no layer {layer!r}; {did_you_mean(layer, known)}"
        )
    return known[layer]


def explain_groups(run: RunRecord) -> list[GroupFacts]:
    """Return the facts about every group, in network order."""
    cost = bounded_cost(run)
    records = {one.name: one for one in run.groups.groups} if run.groups else {}
    plain = [GroupFacts(name, size, kept, cost) for name, (kept, size) in run.result.widths.items()]
    return [
        _with_record(run, one, records[one.name]) if one.name in records else one for one in plain
    ]


def bounded_cost(run: RunRecord) -> str:
    """Return the name of the cost that the budget bounds first; MACs if it bounds none."""
    budget = run.result.budget
    bounded = [] if budget is None else list(Budget.parse(budget).limits)
    known = set(run.groups.groups[0].share) if run.groups and run.groups.groups else {"flops"}
    return next((one for one in (*bounded, *COSTS) if one in known), "flops")


def _with_record(run: RunRecord, facts: GroupFacts, group: GroupRecord) -> GroupFacts:
    near = {one.width: _step(run, group, one, facts.cost) for one in group.steps}
    fewer = [one for width, one in near.items() if width < group.width]
    more = [one for width, one in near.items() if width > group.width]
    halves = [one for one in group.curve.widths if one >= group.size / 2]
    return replace(
        facts,
        share=group.share.get(facts.cost),
        half_cut=group.curve.at(halves[0]) if halves else None,
        now=group.curve.at(group.width),
        fewer=fewer[0] if fewer else None,
        more=more[0] if more else None,
        members=tuple(group.members.producers),
    )


def _step(run: RunRecord, group: GroupRecord, step: Step, cost: str) -> StepFacts | None:
    key = cost_class(cost).result_key
    dense, pruned = (costs.get(key) for costs in (run.result.costs.dense, run.result.costs.pruned))
    if not dense or pruned is None or cost not in step.costs:
        return None
    now, then = group.curve.at(group.width), group.curve.at(step.width)
    added = None if now is None or then is None else then - now
    return StepFacts(step.width, (pruned - step.costs[cost]) / dense, added)


def explain_group(run: RunRecord, name: str) -> GroupFacts:
    """Return the facts about one group, with the trials that differ from the winner in it."""
    found = next(one for one in explain_groups(run) if one.name == name)
    return replace(found, trials=tuple(_telling_trials(run, found)))


def _telling_trials(run: RunRecord, facts: GroupFacts) -> Iterator[TrialFacts]:
    """Yield the candidates narrower and wider here that are most like the winner in all else."""
    place = list(run.result.widths).index(facts.name)
    winner = [kept for kept, _ in run.result.widths.values()]
    sizes = [size for _, size in run.result.widths.values()]
    kind = next(iter(kinds_of([run])), None)

    def described(number: int, trial: Trial) -> TrialFacts:
        widths = trial.candidate.widths
        others = [
            abs(width - own) / size
            for one, (width, own, size) in enumerate(zip(widths, winner, sizes, strict=True))
            if one != place
        ]
        found = trial.measurement
        dense = found.dense_costs.get(facts.cost) if found else None
        return TrialFacts(
            number,
            widths[place],
            fmean(others) if others else 0.0,
            found.costs[facts.cost] / dense if found and dense else None,
            kind.of_trial(trial) if kind else None,
        )

    known = [
        described(number, trial)
        for number, trial in enumerate(run.trials, 1)
        if trial.value is not None and trial.candidate.kind == "candidate"
    ]
    known.sort(key=lambda one: one.apart)
    yield from [one for one in known if one.width == facts.kept and not one.apart][:1]
    yield from [one for one in known if one.width < facts.kept][:MOST_TRIALS]
    yield from [one for one in known if one.width > facts.kept][:MOST_TRIALS]

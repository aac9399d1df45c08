"""Why a layer has the width that it has: its curve, its cost, and the trials that said so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from autoprune.cost import cost_class
from autoprune.cost.budget import Budget
from autoprune.cost.registry import COSTS
from autoprune.errors import UsageError, did_you_mean, listed
from autoprune.reporting.blocks import Bar, Cell, Table
from autoprune.reporting.records import RunRecord
from autoprune.reporting.scores import kinds_of
from autoprune.reporting.wording import UNKNOWN, number, percent
from autoprune.study.group_records import FrozenRecord, GroupRecord, Step
from autoprune.study.trial import Trial

# Trials that are shown on either side of the winner's width.
MOST_TRIALS = 3
# Layers that are named because they share their channels.
MOST_MEMBERS = 8


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
    return [
        GroupFacts(name, size, kept, cost, **_of_record(run, records[name], cost))
        if name in records
        else GroupFacts(name, size, kept, cost)
        for name, (kept, size) in run.result.widths.items()
    ]


def bounded_cost(run: RunRecord) -> str:
    """Return the name of the cost that the budget bounds first; MACs if it bounds none."""
    budget = run.result.budget
    bounded = [] if budget is None else list(Budget.parse(budget).limits)
    known = set(run.groups.groups[0].share) if run.groups and run.groups.groups else {"flops"}
    return next((one for one in (*bounded, *COSTS) if one in known), "flops")


def _of_record(run: RunRecord, group: GroupRecord, cost: str) -> dict[str, object]:
    near = {one.width: _step(run, group, one, cost) for one in group.steps}
    fewer = [one for width, one in near.items() if width < group.width]
    more = [one for width, one in near.items() if width > group.width]
    halves = [one for one in group.curve.widths if one >= group.size / 2]
    return {
        "share": group.share.get(cost),
        "half_cut": group.curve.at(halves[0]) if halves else None,
        "now": group.curve.at(group.width),
        "fewer": fewer[0] if fewer else None,
        "more": more[0] if more else None,
        "members": tuple(group.members.producers),
    }


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


def reasons(facts: GroupFacts, others: Sequence[GroupFacts]) -> Iterator[str]:
    """Yield in sentences why a group has its width.

    Args:
        facts: about it.
        others: about all groups, this one among them.
    """
    title = cost_class(facts.cost).title
    kept = f"keeps {facts.kept} of {facts.size} units ({percent(facts.kept / facts.size, 0)})"
    share = "" if facts.share is None else f"; {percent(facts.share, 1)} of the dense {title} go"
    yield f"{facts.name} {kept}{share and share + ' with it'}."
    if len(facts.members) > 1:
        makers = [one.removesuffix(".weight") for one in facts.members]
        yield f"{listed(makers, MOST_MEMBERS)} share these channels, and keep the same ones."
    if facts.share is None:
        yield "Curve and costs are not known: an older version made the run."
    for step, verb in ((facts.fewer, "fewer"), (facts.more, "more")):
        if step is not None:
            yield f"One step {verb} ({step.width} units) would {_changes(step, title)}."
    prices = {one.name: one.fewer.price for one in others if one.fewer and one.fewer.price}
    if (own := prices.get(facts.name)) and len(prices) > 1:
        rank = sorted(prices.values(), reverse=True).index(own) + 1
        usual = median(price for price in prices.values() if price)
        yield (
            f"Cutting further here loses {own:.2g} for each percent of the dense {title} saved, "
            f"{own / usual:.2g} times the median of all groups (place {rank} of {len(prices)}, "
            "the dearest first)."
        )


def _changes(step: StepFacts, title: str) -> str:
    verb = "save" if step.saved >= 0 else "cost"
    text = f"{verb} {percent(abs(step.saved))} of the dense {title}"
    if step.added is None:
        return text
    return f"{text} and {'add' if step.added >= 0 else 'take'} {number(abs(step.added))} " + (
        "to the expected loss" if step.added >= 0 else "off the expected loss"
    )


def groups_table(facts: Sequence[GroupFacts]) -> Table:
    """Return what every group keeps beside its cost and its sensitivity."""
    title = cost_class(facts[0].cost).title if facts else ""
    dearest = max((one.half_cut or 0.0 for one in facts), default=0.0)
    rows: list[list[Cell]] = [
        [
            one.name,
            f"{one.kept} / {one.size}",
            Bar(percent(one.kept / one.size, 0), one.kept / one.size),
            UNKNOWN if one.share is None else Bar(percent(one.share, 1), one.share),
            UNKNOWN
            if one.half_cut is None
            else Bar(number(one.half_cut), one.half_cut / dearest if dearest else 0.0),
            UNKNOWN if one.fewer is None else percent(one.fewer.saved),
            UNKNOWN if one.fewer is None else number(one.fewer.added, sign="+"),
            UNKNOWN if one.fewer is None else number(one.fewer.price),
        ]
        for one in facts
    ]
    return Table(
        f"Sensitivity is the loss to expect if half of a group, and nothing else, is cut. One step "
        f"fewer saves so much of the dense {title} and adds so much to the loss.",
        [
            "group",
            "units",
            "kept",
            f"share of {title}",
            "sensitivity",
            "step saves",
            "step loses",
            f"loss per % of {title}",
        ],
        rows,
    )


def trials_table(run: RunRecord, facts: GroupFacts) -> Table:
    """Return the trials that differ from the winner in a group."""
    kind = next(iter(kinds_of([run])), None)
    rows: list[list[Cell]] = [
        [
            f"{one.number}" if one.width != facts.kept else f"{one.number} (the winner)",
            str(one.width),
            percent(one.apart, 1),
            percent(one.cost),
            UNKNOWN if kind is None or one.score is None else kind.shown(one.score),
        ]
        for one in facts.trials
    ]
    return Table(
        "Trials that are most like the winner in the other groups, on the search samples",
        [
            "trial",
            "units here",
            "apart in the others",
            f"{cost_class(facts.cost).title}, of dense",
            kind.title if kind else "score",
        ],
        rows,
    )

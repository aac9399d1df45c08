"""Why a layer has its width, in sentences and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from autoprune.cost import cost_class
from autoprune.errors import listed
from autoprune.reporting.blocks import Bar, Cell, Table
from autoprune.reporting.explanation import GroupFacts, StepFacts
from autoprune.reporting.run_records import RunRecord
from autoprune.reporting.scores import kinds_of
from autoprune.reporting.wording import UNKNOWN, number, percent

# Layers that are named because they share their channels.
MOST_MEMBERS = 8


def reasons(facts: GroupFacts, others: Sequence[GroupFacts]) -> Iterator[str]:
    """Yield in sentences why a group has its width.

    Args:
        facts: about it.
        others: about all groups, this one among them.
    """
    title = cost_class(facts.cost).title
    kept = f"keeps {facts.kept} of {facts.size} units ({percent(facts.kept / facts.size, 0)})"
    if not facts.kept:
        kept = f"is gone with all of its branch ({facts.size} units)"
    share = "" if facts.share is None else f"; {percent(facts.share, 1)} of the dense {title} go"
    yield f"{facts.name} {kept}{share and share + ' with it'}."
    if len(facts.members) > 1:
        makers = [one.removesuffix(".weight") for one in facts.members]
        yield f"Layers that share these channels: {listed(makers, MOST_MEMBERS)}."
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

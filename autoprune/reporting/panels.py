"""The panels of a report: each is a function, and a line in `OF_ALL` or `OF_EACH`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence

import tomli_w

from autoprune.cost import COSTS, cost_class
from autoprune.errors import counted
from autoprune.options.search import OPTIONS
from autoprune.reporting import drawings
from autoprune.reporting.blocks import Bar, Block, Cell, Code, Table, Text
from autoprune.reporting.explanation import explain_groups
from autoprune.reporting.reasons import groups_table
from autoprune.reporting.run_records import STAGES, RunRecord, Stage
from autoprune.reporting.side_by_side import (
    comparison_table,
    notes,
    shown_conditions,
    shown_difference,
    shown_score,
)
from autoprune.reporting.wording import (
    UNKNOWN,
    brief,
    conditions,
    duration,
    number,
    percent,
    stage_title,
)

# Frozen groups that are listed by name for one reason.
MOST_NAMED = 6
# Rows of the tables of one kind, of all runs together: a page stays small.
MOST_ROWS = 150
# Characters of a text to copy, likewise.
LONGEST_CODE = 20_000


def headline(run: RunRecord) -> str:
    """Return in one line what was asked, and what was gained."""
    shares = {name: run.share(cost_class(name).result_key) for name in ("flops", "params")}
    left = " and ".join(
        f"{percent(share, 1)} of the {cost_class(name).title}"
        for name, share in shares.items()
        if share is not None
    )
    last = STAGES[run.handed_over]
    is_cut = run.handed_over == "pruned"
    score = f"{shown_score(run, run.score(run.handed_over))}{'' if is_cut else f' ({last})'}"
    speed = run.share("latency_ms")
    faster = f", {1 / speed:.2f} times as fast" if speed else ""
    zeros = "" if run.zeros is None else f", with {percent(run.zeros, 1)} of its weights zero"
    metric = "top-1" if run.result.score.metric == "top1" else "score"
    dense, network = shown_score(run, run.score("dense")), brief(run.network.rpartition("/")[2])
    return (
        f"Asked for {brief(run.asked)}: {network} keeps {left}{zeros}{faster}, at "
        f"{metric} {score}; dense has {dense} ({shown_difference(run, run.lost)})."
    )


def compared(runs: Sequence[RunRecord]) -> Iterator[Block]:
    """Yield the runs beside each other, if there are several."""
    if len(runs) > 1:
        yield from (Text(note) for note in notes(runs))
        yield comparison_table(runs)


def gained(run: RunRecord, most: int) -> Iterator[Block]:
    """Yield the dense network beside what became of it."""
    stages = run.stages
    score = run.result.score
    rows: list[list[Cell]] = [
        [
            "top-1 accuracy" if score.metric == "top1" else "score",
            *(shown_score(run, run.score(stage)) for stage in stages),
            shown_difference(run, run.lost),
        ],
        [
            "KL to dense, nats",
            *(number(run.divergence(stage)) if stage != "dense" else UNKNOWN for stage in stages),
            "",
        ],
    ]
    for name in COSTS:
        rows += _cost_rows(run, name, stages)
    sizes = [run.weights_file(stage) for stage in stages]
    shown = cost_class("memory").shown
    files = [UNKNOWN if one is None else shown(one.stat().st_size) for one in sizes]
    rows.append(["weights file", *files, ""])
    scored = (
        "scored by the user's own function"
        if score.samples is None
        else f"{score.split} split, {score.samples} samples"
    )
    yield Table(
        f"{scored}; {shown_conditions(run)}",
        ["", *(STAGES[stage] for stage in stages), "change"],
        rows,
    )
    if score.from_scratch is not None:
        yield Text(
            f"The same widths, trained from scratch: {shown_score(run, score.from_scratch)}."
        )


def _cost_rows(run: RunRecord, name: str, stages: Sequence[Stage]) -> list[list[Cell]]:
    """Return the rows of one cost; latency has one measured, and one predicted."""
    cost, costs = cost_class(name), run.result.costs

    def row(title: str, dense: float | None, pruned: float | None) -> list[list[Cell]]:
        if dense is None or pruned is None:
            return []
        figures = [cost.shown(dense if stage == "dense" else pruned) for stage in stages]
        return [[title, *figures, cost.compared(dense, pruned) if dense else ""]]

    if name != "latency":
        return row(cost.title, costs.dense.get(cost.result_key), costs.pruned.get(cost.result_key))
    latency = costs.latency
    if latency is None:
        return []
    return [
        *row("latency, measured", latency.measured_dense_ms, latency.measured_ms),
        *row("latency, predicted", latency.predicted_dense_ms, latency.predicted_ms),
    ]


def handed_over(runs: Sequence[RunRecord]) -> Iterator[Block]:
    """Yield the accuracy of what several runs handed over against its costs."""
    if (figure := drawings.handed_over(runs)) is not None:
        yield figure


def candidates(runs: Sequence[RunRecord]) -> Iterator[Block]:
    """Yield the score of all candidates against their costs."""
    if (figure := drawings.candidates(runs)) is not None:
        yield figure
    else:
        yield Text("No trial has a score.")


def progress(runs: Sequence[RunRecord]) -> Iterator[Block]:
    """Yield the best score so far against evaluations."""
    if (figure := drawings.progress(runs)) is not None:
        yield figure


def keep_ratios(runs: Sequence[RunRecord]) -> Iterator[Block]:
    """Yield what every group keeps; runs of one network in one drawing."""
    rest = list(runs)
    while rest:
        like = [run for run in rest if run.is_like(rest[0])]
        if len(like) < len(runs):
            names = ", ".join(brief(run.label) for run in like)
            yield Text(f"{brief(like[0].network)}: {names}")
        yield drawings.keep_ratios(like, MOST_ROWS // len(runs))
        rest = [run for run in rest if run not in like]


def layers(run: RunRecord, most: int) -> Iterator[Block]:
    """Yield why every group was kept or cut."""
    facts = explain_groups(run)
    table = groups_table(facts[:most])
    yield Table(
        table.caption,
        table.columns,
        [[brief(str(name)), *rest] for name, *rest in table.rows],
    )
    if len(facts) > most:
        yield Text(f"{len(facts) - most} more groups are left out.")
    if run.groups is None:
        yield Text("An older version made the run: costs and losses of groups are not known.")
    yield Text(f"More about a layer: autoprune explain {shlex.quote(str(run.path))} LAYER")


def time_spent(run: RunRecord, most: int) -> Iterator[Block]:
    """Yield where the seconds of the search went."""
    known = {stage: spent for stage, spent in run.result.seconds.items() if spent}
    total = max(run.result.search.seconds, sum(known.values()))
    spent = dict(sorted(known.items(), key=lambda one: -one[1]))
    spent["rest"] = total - sum(known.values())
    rows: list[list[Cell]] = [
        [
            brief(stage_title(stage)),
            duration(seconds),
            Bar(percent(seconds / total, 1), seconds / total),
        ]
        for stage, seconds in list(spent.items())[:most]
        if total
    ]
    search = run.result.search
    failed = f" ({search.failed} failed)" if search.failed else ""
    made = f"{counted(search.trials, 'trial')}{failed}, {counted(search.evaluations, 'evaluation')}"
    yield Table(
        f"{duration(search.seconds)} for {made}; seconds of candidates are summed over workers",
        ["stage", "time", "share"],
        rows,
    )
    if (tuned := run.result.finetune) is not None:
        yield Text(
            f"Fine-tuning took {duration(tuned.seconds)} for {number(tuned.epochs)} epochs; the "
            f"best was epoch {number(tuned.best_epoch)}."
        )


def frozen(run: RunRecord, most: int) -> Iterator[Block]:
    """Yield what could not be cut, and why."""
    if run.groups is None:
        yield Text("The run does not say: an older version made it.")
        return
    by_reason: dict[str, list[str]] = {}
    for one in run.groups.frozen:
        by_reason.setdefault(one.reason, []).append(brief(one.name))
    if not by_reason:
        yield Text("Nothing: every group of channels could be cut.")
        return
    rows: list[list[Cell]] = []
    for reason, names in list(by_reason.items())[:most]:
        more = len(names) - MOST_NAMED
        shown = ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        rows.append([shown, brief(reason, 160), str(len(names))])
    yield Table("Groups that stay whole", ["groups", "reason", "number"], rows, texts=2)


def exports(run: RunRecord, most: int) -> Iterator[Block]:
    """Yield the exported files, if there are any."""
    if not run.result.export:
        return
    rows: list[list[Cell]] = [
        [
            brief(one.format) + (" int8" if one.int8 else ""),
            brief(one.file),
            _beside_dense("memory", one.bytes, one.dense_bytes),
            number(one.max_error),
            _beside_dense("latency", one.latency_ms, one.dense_latency_ms),
            brief(conditions(one.backend, one.device, one.threads))
            if one.backend is not None and one.device is not None
            else UNKNOWN,
        ]
        for one in run.result.export[:most]
    ]
    yield Table(
        "Largest error beside PyTorch's outputs; sizes and latencies with the dense network's in "
        "brackets",
        ["format", "file", "size", "largest error", "latency", "measured with"],
        rows,
        texts=2,
    )


def _beside_dense(cost: str, own: float | None, dense: float | None) -> str:
    shown = cost_class(cost).shown
    if own is None:
        return UNKNOWN
    return shown(own) + ("" if dense is None else f" ({shown(dense)})")


def repeat(run: RunRecord, most: int) -> Iterator[Block]:
    """Yield the command that repeats the run, and its options."""
    longest = LONGEST_CODE * most // MOST_ROWS
    yield Code(repeat_command(run)[:longest])
    yield Code(tomli_w.dumps(run.config)[:longest], "config.toml: all options and versions")


ALONE = (("workers", 1), ("at_once", 1))
"""What runs write down of themselves where candidates are evaluated one after the other."""


def repeat_command(run: RunRecord) -> str:
    """Return what repeats a run: on the command line, or in Python if it was begun there."""
    if "model" in run.config:
        fresh = str(run.path.with_name(f"{run.path.resolve().name}-again"))
        config = shlex.quote(str(run.run.config_path))
        return f"autoprune search --config {config} --output {shlex.quote(fresh)}"
    given = {
        name: value
        for name, value in run.config.items()
        if name in OPTIONS
        and value not in (OPTIONS[name].default, [], {})
        and (name, value) not in ALONE
    }
    words = ", ".join(f"{name}={value!r}" for name, value in given.items())
    return f"autoprune.search(model, data=data, {words})"


OF_SWEEP: Sequence[tuple[str, Callable[[Sequence[RunRecord]], Iterator[Block]]]] = (
    ("Runs compared", compared),
    ("Accuracy against cost", handed_over),
    ("Keep ratios", keep_ratios),
)
"""Panels that show many runs together."""

OF_ALL = (*OF_SWEEP[:2], ("Candidates", candidates), ("Best so far", progress), *OF_SWEEP[2:])
"""Panels that show a few runs together."""

OF_EACH: Sequence[tuple[str, Callable[[RunRecord, int], Iterator[Block]]]] = (
    ("Dense and pruned", gained),
    ("Why each layer was kept or cut", layers),
    ("Where the time went", time_spent),
    ("What was frozen", frozen),
    ("Exported files", exports),
    ("How to repeat it", repeat),
)
"""Panels that each run has; they are told how many rows a table may have."""

"""Figures for people: tables on standard output, without colours where it is no terminal.

The file is long since it lays out the figures of every command.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from autoprune.cost import COSTS, cost_class
from autoprune.cost.budget import UNBOUNDED, Budget
from autoprune.errors import counted, listed
from autoprune.reporting.wording import percent, stage_title

if TYPE_CHECKING:
    from pathlib import Path

    from autoprune.api import Run, SweepRuns
    from autoprune.reporting.blocks import Table as Block

# Where no terminal says how wide it is, nothing is worth cutting off.
_PIPE_WIDTH = 200
# Between two columns.
_GAP = 2


class _Output(Console):
    """Standard output; whose reader has left, the caller is told."""

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled, where Rich would end the process itself."""
        raise


def console() -> Console:
    """Return standard output."""
    return _Output(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def warn(text: str) -> None:
    """Print one line on standard error."""
    print(f"Warning: {text}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Print machine-readable output."""
    print(json.dumps(value, indent=2))


def table(*columns: str, texts: int = 1) -> Table:
    """Return an empty table; its first columns hold texts, the others numbers."""
    empty = Table(box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(columns):
        is_text = place < texts
        empty.add_column(
            column, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text
        )
    return empty


def say(text: str) -> None:
    """Print sentences, broken between words where a terminal says how wide it is."""
    console().print(text, markup=False, soft_wrap=not sys.stdout.isatty())


def point_to(path: str) -> None:
    """Print a line with a path or command, which can be copied as a whole."""
    console().print(path, markup=False, soft_wrap=True)


def print_table(block: Block) -> None:
    """Print a table of a report, in parts below each other where it is too wide for one."""
    out = console()
    for part in parts(block, out.width):
        rows = table(*(block.columns[place] for place in part), texts=block.texts)
        for row in block.rows:
            rows.add_row(*(escape(str(row[place])) for place in part))
        out.print(rows, "", sep="\n")
    say(block.caption)


def parts(block: Block, width: int) -> list[list[int]]:
    """Return the columns of each part of a table: the texts, and what fits beside them.

    Args:
        block: the table.
        width: characters of a line.
    """
    cells = zip(block.columns, *block.rows, strict=True)
    widths = [max(cell_len(str(cell)) for cell in column) for column in cells]
    texts = list(range(block.texts))
    found = [texts]
    for place in range(block.texts, len(widths)):
        taken = [*found[-1], place]
        is_too_wide = sum(widths[one] for one in taken) + _GAP * (len(taken) - 1) > width
        if is_too_wide and found[-1] != texts:
            found.append(texts)
        found[-1] = [*found[-1], place]
    return found


def comparison(dense: Mapping[str, Any], pruned: Mapping[str, Any]) -> Table:
    """Return two networks side by side.

    Args:
        dense: Scores ("top1", "score", "loss") and costs by their keys in the result, as far as
            they are known.
        pruned: The same keys.
    """
    rows = table("", "dense", "pruned", "")
    costs = map(cost_class, COSTS)
    figures = _SCORES | {one.result_key: (one.title, one.shown, one.compared) for one in costs}
    for key, (title, show, relate) in figures.items():
        before, after = dense.get(key), pruned.get(key)
        if before is not None and after is not None:
            rows.add_row(title, show(before), show(after), relate(before, after))
    return rows


# Key → title, how one figure is shown, how the pruned one relates to the dense one.
_SCORES: dict[str, tuple[str, Callable[[float], str], Callable[[float, float], str]]] = {
    "top1": ("top-1", percent, lambda a, b: f"{100 * (b - a):+.2f} points"),
    "score": ("score", lambda x: f"{x:.4g}", lambda a, b: f"{b - a:+.4g}"),
    "loss": ("loss", lambda x: f"{x:.4f}", lambda a, b: f"{b - a:+.4f}"),
}


def show_search(run: Run, verbose: bool = False, quiet: bool = False) -> None:
    """Print what a search ended with."""
    if quiet:
        print(run.path)
        return
    out, result = console(), run.result
    score, costs, done = result["score"], result["costs"], result["search"]
    key = "top1" if score["metric"] == "top1" else "score"
    handed = score["pruned"] if score["recovered"] is None else score["recovered"]
    dense, pruned = {**costs["dense"], key: score["dense"]}, {**costs["pruned"], key: handed}
    out.print(comparison(dense, pruned))
    if score["recovered"] is not None:
        show = _SCORES[key][1]
        out.print(f"\n{show(score['pruned'])} right after the cut, before recovery", end="")
    samples = f"{score['split']} split, {counted(score['samples'] or 0, 'sample')}"
    scored = "scored by your own evaluate" if score["samples"] is None else samples
    out.print(f"\n{scored}; {escape(_about_latency(costs['latency'], shlex.quote(str(run.path))))}")
    bounds = result["budget"] or ""
    if "flops" in bounds and "latency" not in bounds:
        if hint := _about_slow_macs(costs["dense"], costs["pruned"]):
            out.print(hint)
    trials, evaluations = (counted(done[f"{one}s"], one) for one in ("trial", "evaluation"))
    failed = f" ({done['failed']} failed)" if done["failed"] else ""
    out.print(f"{trials}{failed}, {evaluations}, {done['seconds']:.1f} s")
    if verbose:
        out.print(_seconds_table(result["seconds"], done["seconds"]))
    _point_to_files(run.path, "pruned.safetensors, policy.json, result.json, …")
    point_to(f"next:  autoprune evaluate {shlex.quote(str(run.path))}")


def show_sweep(sweep: SweepRuns, quiet: bool = False) -> None:
    """Print what every budget of a sweep ended with."""
    if quiet:
        print(sweep.path)
        return
    from autoprune.reporting.run_records import read_runs
    from autoprune.reporting.side_by_side import comparison_table

    print_table(comparison_table(read_runs(sweep.runs)))
    out = console()
    for one in sweep.result["runs"]:
        if one["error"] is not None:
            out.print(f"{escape(one['budget'])} was left out: {escape(one['error'])}")
    _point_to_files(sweep.path, "sweep.json, a run directory for each budget")


def show_training(run: Run, from_scratch: bool, quiet: bool = False) -> None:
    """Print what fine-tuning, or training from scratch, ended with."""
    if quiet:
        print(run.path)
        return
    from autoprune.study.run_directory import RunDirectory

    out, result = console(), run.result
    score = result["score"]
    done = result["from_scratch" if from_scratch else "finetune"]
    name = "from scratch" if from_scratch else "fine-tuned"
    show = _SCORES["top1" if score["metric"] == "top1" else "score"][1]
    rows = table("", "dense", "cut", "recovered", name)
    kinds = ("dense", "pruned", "recovered", "from_scratch" if from_scratch else "finetuned")
    figures = ["–" if (one := score.get(kind)) is None else show(one) for kind in kinds]
    rows.add_row(_SCORES["top1"][0] if score["metric"] == "top1" else "score", *figures)
    out.print(rows)
    out.print(f"\n{score['split']} split; {_shares(result)} of the dense network")
    how = ""
    if "optimizer" in done:  # earlier versions did not say
        how = f" ({done['optimizer']}, learning rate {done['learning_rate']:.2g})"
    spent = f"{_epochs(done['epochs'])} in {done['seconds']:.1f} s{how}"
    out.print(f"{spent}, the best after {done['best_epoch']:g}")
    record = RunDirectory(run.path).training(from_scratch)
    paths = [record.weights_path] if done["best_epoch"] else []
    names = ", ".join(path.name for path in (*paths, record.history_path))
    _point_to_files(run.path, f"{names}, …")


def show_trained(run: Run, quiet: bool = False) -> None:
    """Print what training with a method, the cut and fine-tuning ended with."""
    if quiet:
        print(run.path)
        return
    out, result = console(), run.result
    done = result["train"]
    known = {name: own for name, own in done["scores"].items()}
    if (tuned := result["score"].get("finetuned")) is not None:
        known["fine-tuned"] = {"top1": tuned, "score": tuned}
    figure = next((one for one in ("score", "top1", "kl") if one in known["cut"]), "kl")
    title, show = _SCORES[figure][:2] if figure in _SCORES else ("KL to given", "{:.4g}".format)
    rows = table("", *known)
    figures = [own.get(figure) for own in known.values()]
    rows.add_row(title, *("–" if one is None else show(one) for one in figures))
    out.print(rows)
    left = _zeros(done["sparsity"]) if "sparsity" in done else _shares(result)
    out.print(f"\n{done['split']} split; {left} of the given network")
    spent = f"{_epochs(done['epochs'])} in {done['seconds']:.1f} s with {done['method']}"
    if (tuning := result.get("finetune")) is not None:
        spent += f", {tuning['epochs']:g} in {tuning['seconds']:.1f} s after the cut"
    out.print(escape(spent))
    _point_to_files(run.path, "policy.json, pruned.safetensors, result.json, …")
    point_to(f"next:  autoprune evaluate {shlex.quote(str(run.path))}")


def _zeros(figures: Mapping[str, Any]) -> str:
    """Return how many weights are zero, and which share of the MACs is with others."""
    zeros = percent(figures["zeros"] / figures["weights"])
    of_layers = percent(figures["weights"] / figures["parameters"])
    macs = percent(figures["nonzero_macs"] / figures["macs"])
    which = f"{zeros} of the weights, which are {of_layers} of all parameters, are zero"
    return f"{which}; others take {macs} of the MACs"


def _shares(result: Mapping[str, Any]) -> str:
    """Return which shares are left of what the budget bounds; of MACs where that is not known."""
    dense, pruned = (result["costs"][kind] for kind in ("dense", "pruned"))
    bounded = map(cost_class, Budget.parse(result["budget"] or UNBOUNDED).limits)
    known = [one for one in bounded if dense.get(one.result_key) and pruned.get(one.result_key)]
    shares = [
        f"{percent(pruned[one.result_key] / (dense[one.result_key] or 1))} of the {one.title}"
        for one in known or [cost_class("flops")]
    ]
    return ", ".join(shares)


def _point_to_files(folder: Path, names: str) -> None:
    """Print where a run's files are, and its page."""
    point_to(f"files: {folder}/ ({names})")
    if (page := folder / "report.html").exists():
        point_to(f"page:  {page}")


def _epochs(number: float) -> str:
    return f"{number:g} epoch{'s' * (number != 1)}"


def _about_latency(latency: Mapping[str, Any], run: str) -> str:
    """Return in words where latency was measured, or how it can be."""
    if latency["measured_ms"] is not None:
        return f"latency measured with {_conditions(latency)}"
    if latency["predicted_ms"] is None:
        return "latency was not measured"
    share = percent(latency["predicted_ms"] / latency["predicted_dense_ms"])
    text = f"latency predicted for {_conditions(latency)}: {share} of dense"
    there = f"; to measure it there: autoprune evaluate {run} --kit DIR"
    return text + (there if latency["backend"] == "onnxruntime" else "")


def _conditions(latency: Mapping[str, Any]) -> str:
    """Return in words what `costs.latency` of a result is of."""
    from autoprune.cost.latency.conditions import measured_on

    # Runs of older versions have the threads in the device's name.
    return f"{measured_on(latency['backend'], latency['device'], latency.get('threads'))}, batch 1"


def _about_slow_macs(dense: Mapping[str, Any], pruned: Mapping[str, Any]) -> str | None:
    """Return what to do where latency fell by less than half as large a share as MACs did."""
    if not (dense["latency_ms"] and pruned["latency_ms"]):
        return None
    latency, macs = (1 - pruned[key] / max(dense[key], 1e-9) for key in ("latency_ms", "flops"))
    if latency >= macs / 2:
        return None
    return (
        f"MACs fell by {percent(macs)}, latency by {percent(max(latency, 0.0))}: for a faster "
        "network bound latency itself: --budget latency=0.6 --round-to auto"
    )


def show_evaluation(report: Mapping[str, Any]) -> None:
    """Print what `autoprune evaluate` found."""
    out = console()
    out.print(comparison(report["dense"], report["pruned"]))
    scored = "scored by your own evaluate"
    if report["samples"] is not None:
        samples = counted(report["samples"], "sample")
        scored = f"{report['data']}, {report['split']} split, {samples}"
    if report["kl"] is not None:
        scored += f"; KL to dense {report['kl']:.4f}"
    if report["agreement"] is not None:
        scored += f", the same top class on {100 * report['agreement']:.2f} %"
    out.print(f"\n{escape(scored)}; {escape(_about_latency(report['latency'], ''))}")


def show_measured(report: Mapping[str, Any]) -> None:
    """Print what a winner's kit measured."""
    from autoprune.engine.latency_bound import is_miss

    out, dense, pruned = console(), report["measured_dense_ms"], report["measured_ms"]
    out.print(comparison({"latency_ms": dense}, {"latency_ms": pruned}))
    predicted = ""
    if report["predicted_ms"] is not None:
        share = percent(report["predicted_ms"] / report["predicted_dense_ms"])
        predicted = f", {share} predicted"
    out.print(f"\n{percent(pruned / dense)} of dense{predicted}; {escape(_conditions(report))}")
    if report["budget"] is not None:
        factor = report["overshoot"]
        missed = f"missed, by a factor of {factor:.3f}: search again with a tighter bound"
        out.print(f"{report['budget']} is {missed if is_miss(factor) else 'met'}")


def show_export(entry: Mapping[str, Any], path: str) -> None:
    """Print what `autoprune export` wrote, beside the dense network in the same format."""
    from autoprune.cost.latency.conditions import measured_on

    out, kinds = console(), ["dense_", "float_", ""] if entry["int8"] else ["dense_", ""]
    titles = ["dense", "pruned", "pruned int8"][: len(kinds)]
    rows = table("", *titles, "")
    for title, key, show in (
        ("size", "bytes", cost_class("memory").shown),
        ("latency", "latency_ms", lambda ms: f"{ms:.3g} ms"),
        ("top-1", "top1", percent),
    ):
        figures = [entry.get(f"{kind}{key}") for kind in kinds]
        if figures[-1] is not None:
            related = "" if key == "top1" else percent(figures[-1] / figures[0])
            rows.add_row(title, *("–" if one is None else show(one) for one in figures), related)
    out.print(rows)
    error = f"{entry['max_error']:.2g} ({percent(entry['relative_error'])} of the largest output)"
    about = measured_on(entry["backend"], entry["device"], entry["threads"])
    out.print(f"\nlargest error against PyTorch {error}; latency measured with {escape(about)}")
    if "agreement" in entry:
        scored = f"{entry['split']} split, {entry['samples']} samples"
        agreed = f"int8 agrees with float on {percent(entry['agreement'])}"
        out.print(f"{agreed}, KL {entry['kl']:.4f} ({scored})")
    if entry["int8"] and entry["latency_ms"] > entry["float_latency_ms"]:
        out.print("int8 is slower than float here: deploy the float file unless size counts")
    if entry["batch"] is not None:
        out.print(f"the file takes {entry['batch']} sample at a time")
    point_to(f"file: {path}")


def show_inspection(report: Mapping[str, Any]) -> None:
    """Print what `autoprune inspect` found."""
    out, dense, smallest = console(), report["dense"], report["smallest"]
    macs, params = cost_class("flops").shown, cost_class("params").shown
    layers = table("layer", "kind", "MACs", "share", "params", texts=2)
    for layer in filter(itemgetter("flops"), report["layers"]):
        share = percent(layer["flops"] / dense["flops"])
        figures = (macs(layer["flops"]), share, params(layer["params"]))
        layers.add_row(escape(layer["name"]), layer["kind"], *figures)
    others = sum(layer["params"] for layer in report["layers"] if not layer["flops"])
    layers.add_row("all others", "", "", "", params(others))
    has_blocks = any(group["channels"] != group["units"] for group in report["groups"])
    channels = ["channels"] if has_blocks else []
    titles = ("lowest", "producers", "consumers", "MACs of its layers")
    groups = table("group", "units", *channels, *titles)
    for group in report["groups"]:
        linked = (str(len(group["producers"])), str(len(group["consumers"])))
        sizes = [str(group[key]) for key in ("units", *channels, "lowest")]
        groups.add_row(escape(group["name"]), *sizes, *linked, percent(group["macs_share"]))
    out.print(layers, "", groups, "", sep="\n")
    rescaled = {group["name"]: group["rescaled_by"] for group in report["groups"]}
    for operators in sorted({tuple(own) for own in rescaled.values() if own}):
        names = [name for name, own in rescaled.items() if tuple(own) == operators]
        text = (
            f"cutting changes what {listed(operators)} makes of the channels that stay, and its "
            f"loss counts as the cut's ({len(names)}): {listed(names)}"
        )
        say(text)
    for names, reason in _by_reason(report["frozen"]):
        say(f"frozen ({len(names)}): {listed(names)}: {reason}")
    if follow := [edit["name"] for edit in report["edits"]]:
        say(f"follow the widths ({len(follow)}): {listed(follow)}")
    for operator in report["not_counted"]:
        say(f"MACs of {operator} are not counted")
    out.print(
        f"{counted(len(report['groups']), 'group')} can be pruned, {len(report['frozen'])} cannot; "
        f"{', '.join(map(_shown, dense, dense.values()))} for one input of "
        f"{_by(report['input_shape'])}"
    )
    least = [
        f"{_shown(name, cost)} ({cost_class(name).bound(cost, dense[name])})"
        for name, cost in smallest.items()
    ]
    out.print(f"smallest within reach: {', '.join(least)}")


def _shown(name: str, value: float) -> str:
    """Return a cost with its title: "2.5M MACs"."""
    cost = cost_class(name)
    return f"{cost.shown(value)} {cost.title}"


def _by(shape: Any) -> str:
    """Return the shape of one input in words, or of several."""
    if isinstance(shape, Mapping):
        return ", ".join(f"{name} {_by(own)}" for name, own in shape.items())
    if isinstance(shape, tuple):
        return ", ".join(map(_by, shape))
    return "x".join(map(str, shape))


def _by_reason(frozen: Iterable[Mapping[str, Any]]) -> Iterable[tuple[list[str], str]]:
    """Return names with the reason that they share; its details (in brackets) are the first's."""
    kinds: dict[str, tuple[list[str], str]] = {}
    for group in frozen:
        kind = group["reason"].partition(" (")[0]
        kinds.setdefault(kind, ([], group["reason"]))[0].append(group["name"])
    return kinds.values()


def _seconds_table(stages: Mapping[str, float | None], total: float) -> Table:
    rows = table("stage", "seconds")
    measured = {stage: seconds for stage, seconds in stages.items() if seconds is not None}
    spent = {**measured, "rest": total - sum(measured.values())}
    for stage, seconds in spent.items():
        rows.add_row(f"  {stage_title(stage)}", f"{seconds:.2f}")
    return rows

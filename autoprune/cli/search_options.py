"""Options of `autoprune search` alone, as Typer reads them; none has a default of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.options import parse_count

HOW = "How to search"
RUN = "The run"

Budget = Annotated[
    str | None,
    typer.Option(
        metavar="COST=LIMIT[,…]",
        help="Upper bounds on flops, params, memory, latency: a share of the dense network "
        "(flops=0.5) or absolute (flops=60M,params=2.5M,memory=20MB,latency=5ms). Required, "
        "except to resume; none if the reward weighs the costs.",
        rich_help_panel=HOW,
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        metavar="POINTS",
        help="Instead of a budget: the smallest network that loses at most so many points of "
        "accuracy on the selection images, right after the cut.",
        rich_help_panel=HOW,
    ),
]
Minimize = Annotated[
    str | None,
    typer.Option(
        metavar="COST",
        help="With --max-drop: what is to be small: flops (default), params, memory, latency.",
        rich_help_panel=HOW,
    ),
]
Reward = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="What is maximised: kl (default), accuracy, accuracy_flops, accuracy_latency, "
        "path/to/file.py:function or package.module:function.",
        rich_help_panel=HOW,
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Who chooses the widths: auto (default), surrogate, local, ddpg, netadapt, bayes, "
        "knapsack, evolution, sensitivity, global, random, uniform, deep, shallow, rl:ppo, "
        "rl:sac, rl:td3 or recall (--from).",
        rich_help_panel=HOW,
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of bayes: gp, tpe or cmaes.", rich_help_panel=HOW),
]
Agent = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="A run whose agent, learnt there, is used here (any network): local begins with its "
        "advice, ddpg lets it learn on, auto chooses one of the two.",
        rich_help_panel=HOW,
    ),
]
FromRun = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="No new search: bring the policies that this run passed on its way (netadapt "
        "passes every budget) onto the new budget; its model, data and what it excluded are "
        "used unless others are given.",
        rich_help_panel=HOW,
    ),
]
Trials = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        parser=parse_count,
        help="Evaluations (default: 4 per group of channels, at least 40; where candidates are "
        "repaired as a whole 1, at least 30).",
        rich_help_panel=HOW,
    ),
]
Time = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION",
        help="Stop at the best so far after 90s, 10m, 1h, …, finalists and recovery included; one "
        "trial and one finalist are made in any case.",
        rich_help_panel=HOW,
    ),
]
Recover = Annotated[
    str | None,
    typer.Option(
        metavar="SECONDS|off",
        help="How long the winner learns, without labels, to do what the dense network does: "
        "60, 10m, off, … (default: half of what the search took, 2 minutes at most); a quarter of "
        "--time at most. Ctrl-C ends it early.",
        rich_help_panel=HOW,
    ),
]
TrainFrozen = Annotated[
    bool | None,
    typer.Option(
        "--train-frozen/--no-train-frozen",
        help="Refit and train also what the network marks as frozen (requires_grad=False); by "
        "default such weights keep their values.",
        rich_help_panel=HOW,
    ),
]
LatencyTable = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Predicts latency; made by autoprune profile (default: where latency is asked for, "
        "this host is measured, into RUN.latency.json).",
        rich_help_panel=HOW,
    ),
]
LatencyBackend = Annotated[
    str | None,
    typer.Option(
        metavar="FILE:CLASS",
        help="A backend of your own that the latency table was measured with, to measure the "
        "winner: no code is imported because a table names it.",
        rich_help_panel=HOW,
    ),
]
VerifyLatency = Annotated[
    bool | None,
    typer.Option(
        "--verify-latency/--no-verify-latency",
        help="Measure the winner beside the dense network, and go on under a tighter bound if it "
        "misses the budget (default: yes, where latency is asked for).",
        rich_help_panel=HOW,
    ),
]
Importance = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which channels stay: obs (default), lasso, thinet, aofp, nisp, taylor, bn_scale, "
        "apoz, mean_activation, tv_separation, l1, l2, geometric_median, coreset, random, "
        "path/to/file.py:Class or package.module:Class.",
        rich_help_panel=HOW,
    ),
]
RepairMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory for the activations of sequential repair, e.g. 8GB: as many calibration "
        "samples as fit are used (default: half of what is free).",
        rich_help_panel=HOW,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        parser=parse_count,
        help="Candidates that are evaluated at once, in threads that share the processor (default "
        "1); more of them pay on many cores.",
        rich_help_panel=HOW,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        parser=parse_count,
        help="Of all randomness (default 0).",
        rich_help_panel=HOW,
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="TOML file of these options; the command line wins.",
        rich_help_panel=RUN,
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="The run directory (default: the next free runs/MODEL-NUMBER).",
        rich_help_panel=RUN,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue the search in --output; only --trials, --time and --recover may be given "
        "anew (a finished search goes on if they are raised).",
        rich_help_panel=RUN,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", help="Also print where the seconds went.", rich_help_panel=RUN),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", help="Print only the run directory.", rich_help_panel=RUN),
]

"""`autoprune search`: find the widths, cut the network, write the run directory."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.options import (
    Data,
    Device,
    Exclude,
    MinKeep,
    Model,
    Normalize,
    RoundTo,
    Weights,
    parse_count,
)

if TYPE_CHECKING:
    from autoprune.cli.settings import Settings

HOW = "How to search"
RUN = "The run"


class Interrupted(Exception):
    """The search was interrupted; the message says how to go on."""


# Typer reads the options from the signature; `gather` takes their values from the context, where
# everything that was not given is None.
def search(
    context: typer.Context,
    model: Model = None,
    weights: Weights = None,
    data: Data = None,
    normalize: Normalize = None,
    device: Device = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="COST=LIMIT[,…]",
            help="Upper bounds on flops, params: a share of the dense network (flops=0.5) or "
            "absolute (flops=60M,params=2.5M). Required, except to resume; none if the reward "
            "weighs the costs.",
            rich_help_panel=HOW,
        ),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="What is maximised: kl (default), accuracy, accuracy_flops, accuracy_latency, "
            "path/to/file.py:function or package.module:function.",
            rich_help_panel=HOW,
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Who chooses the widths: auto (default), ddpg, netadapt, bayes, knapsack, "
            "evolution, sensitivity, global, random, uniform, deep, shallow or recall (--from).",
            rich_help_panel=HOW,
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of bayes: gp, tpe or cmaes.", rich_help_panel=HOW),
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Of ddpg: a run whose agent, learnt there, is used here (any network).",
            rich_help_panel=HOW,
        ),
    ] = None,
    from_run: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="No new search: bring the policies that this run passed on its way (netadapt "
            "passes every budget) onto the new budget.",
            rich_help_panel=HOW,
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=parse_count,
            help="Evaluations (default: 4 per group of channels, at least 40).",
            rich_help_panel=HOW,
        ),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Stop at the best so far after 90s, 10m, 1h, …, finalists included; one trial "
            "and one finalist are made in any case.",
            rich_help_panel=HOW,
        ),
    ] = None,
    importance: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which channels stay: obs (default), lasso, thinet, aofp, nisp, taylor, bn_scale, "
            "apoz, mean_activation, tv_separation, l1, l2, geometric_median, coreset, random, "
            "path/to/file.py:Class or package.module:Class.",
            rich_help_panel=HOW,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=parse_count,
            help="Of all randomness (default 0).",
            rich_help_panel=HOW,
        ),
    ] = None,
    exclude: Exclude = None,
    min_keep: MinKeep = None,
    round_to: RoundTo = None,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="TOML file of these options; the command line wins.",
            rich_help_panel=RUN,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="The run directory (default: the next free runs/MODEL-NUMBER).",
            rich_help_panel=RUN,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the search in --output; only --trials and --time may be given anew "
            "(a finished search goes on if they are raised).",
            rich_help_panel=RUN,
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", help="Also print where the seconds went.", rich_help_panel=RUN),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help="Print only the run directory.", rich_help_panel=RUN),
    ] = False,
) -> None:
    """Find how many channels each layer keeps under a budget, and cut the network down to that.

    Prints accuracy, FLOPs, parameters and measured latency of the dense and the pruned network,
    and where its files are. Without --model and --data the built-in demo runs.

    FLOPs are multiply-accumulates (MACs) of convolutions and matrix products for one input,
    attention included; bias, batch normalisation and activations are not counted.
    """
    from autoprune.cli.settings import gather

    run_search(gather(context.params))


def run_search(settings: Settings) -> None:
    """Do what `autoprune search` does.

    Raises:
        AutopruneError: anything that the user can mend.
        Interrupted: by Ctrl-C.
    """
    from autoprune import api
    from autoprune.cli.display import show_search, warn
    from autoprune.cli.progress import listen
    from autoprune.cli.specs import find_device, has_random_weights, load_model
    from autoprune.data import load_splits

    _check(settings)
    origin = settings.origin
    device = find_device(origin.get("device"))
    data = load_splits(origin["data"], origin.get("normalize"))
    model = load_model(origin["model"], origin.get("weights")).to(device)
    if has_random_weights(origin["model"], origin.get("weights")):
        warn(f"{origin['model']} has random weights; give trained ones with --weights FILE.")
    try:
        with listen(settings.quiet) as progress:
            run = api.search(
                model,
                data=data,
                output=settings.output,
                resume=settings.resume,
                progress=progress,
                origin=settings.lasting_origin,
                **settings.search,
            )
    except KeyboardInterrupt as stop:
        raise Interrupted(_how_to_resume(settings.output)) from stop
    show_search(run, settings.verbose, settings.quiet)


def _check(settings: Settings) -> None:
    """Find mistakes that need no network before one is loaded."""
    from autoprune.config import SearchConfig
    from autoprune.pipeline import check_config
    from autoprune.study.run_directory import RunDirectory

    check_config(SearchConfig.from_mapping(settings.search))
    if not settings.resume:
        RunDirectory(settings.output).check_free()


def _how_to_resume(output: Path) -> str:
    if not (output / "config.toml").exists():
        return "Interrupted before the first trial: nothing was written."
    return (
        f"Interrupted: continue with: autoprune search --resume --output {shlex.quote(str(output))}"
    )

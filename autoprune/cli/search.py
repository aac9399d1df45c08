"""`autoprune search`: find the widths, cut the network, write the run directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.cli.settings import Settings


def search(given: Mapping[str, Any]) -> None:
    """Find how many channels each layer keeps under a budget, and cut the network down to that.

    Prints accuracy, FLOPs, parameters and measured latency of the dense and the pruned network,
    and where its files are. Without --model and --data the built-in demo runs, with --from the
    network and the data of that run.

    FLOPs are multiply-accumulates (MACs) of convolutions and matrix products for one input,
    attention and recurrent networks included; bias, BN and activations are not counted.
    """
    from autoprune.cli.settings import gather

    run_search(gather(given))


def run_search(settings: Settings) -> None:
    """Do what `autoprune search` does.

    Raises:
        AutopruneError: anything that the user can mend.
        Interrupted: by Ctrl-C.
    """
    from autoprune import api
    from autoprune.cli.display import show_search, show_sweep, warn
    from autoprune.cli.progress_bars import listen
    from autoprune.cli.subjects import load_origin
    from autoprune.models.devices import find_device
    from autoprune.models.specs import has_random_weights

    _check(settings)
    origin = settings.origin
    device = find_device(origin.get("device"))
    model, data = load_origin(origin)
    model = model.to(device)
    if has_random_weights(origin["model"], origin.get("weights")):
        warn(f"{origin['model']} has random weights; give trained ones with --weights FILE.")
    with listen(settings.quiet) as progress:
        given: dict[str, Any] = {
            "data": data,
            "output": settings.output,
            "resume": settings.resume,
            "progress": progress,
            "origin": settings.lasting_origin,
            **settings.lasting_search,
        }
        if settings.sweep is None:
            run = api.search(model, **given)
        else:
            runs = api.sweep(model, settings.sweep, **given)
    if settings.sweep is None:
        show_search(run, settings.verbose, settings.quiet)
    else:
        show_sweep(runs, settings.quiet)


def _check(settings: Settings) -> None:
    """Find mistakes that need no network before one is loaded."""
    from autoprune.core.files import check_writable
    from autoprune.cost.budget_sweep import Sweep
    from autoprune.engine.problem import check_config
    from autoprune.options.search import SearchConfig, budgets_of
    from autoprune.study.run_directory import RunDirectory
    from autoprune.study.sweep_directory import SweepDirectory

    options = dict(settings.search)
    place: RunDirectory | SweepDirectory = RunDirectory(settings.output)
    if settings.sweep is not None:
        options["budget"] = next(iter(budgets_of(Sweep.parse(settings.sweep), options).values()))
        place = SweepDirectory(settings.output)
    check_config(SearchConfig.from_mapping(options))
    if settings.resume:
        check_writable(settings.output, "--output", is_folder=True)
    else:
        place.check_free()

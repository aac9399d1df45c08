"""`autoprune profile`: measure the latency table of a network on this device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.options import Data, InputShape, Model, Normalize, Weights, parse_count

if TYPE_CHECKING:
    from autoprune.cost.latency.table import LatencyTable

HOW = "How to measure"


def _count(help: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        metavar="N", parser=parse_count, help=help, rich_help_panel=HOW
    )
    return option


BackendName = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="torch (default), torch-compile, onnxruntime, an entry point of "
        "autoprune.backends, or path/to/file.py:Class.",
        rich_help_panel=HOW,
    ),
]
DeviceName = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="cpu (default), cuda, cuda:1, … or an execution provider of ONNX Runtime.",
        rich_help_panel=HOW,
    ),
]
Threads = Annotated[
    int | None,
    _count("Threads of one run (default: as many as the runtime uses by itself)."),
]
Batch = Annotated[int, _count("Samples of one run (default 1).")]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="float32 (default), float16, bfloat16, float64.", rich_help_panel=HOW
    ),
]
ChannelsLast = Annotated[
    bool, typer.Option("--channels-last", help="Lay images out so.", rich_help_panel=HOW)
]
Kit = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Measure elsewhere: write a folder for a device with Python and ONNX Runtime.",
        rich_help_panel=HOW,
    ),
]
FromKit = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Make the table of a kit's results.", rich_help_panel=HOW),
]
Plot = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Draw the table: an HTML page with latency against width.",
        rich_help_panel=HOW,
    ),
]
Output = Annotated[str, typer.Option(metavar="FILE", help="The table.", rich_help_panel=HOW)]


def profile(
    model: Model = None,
    weights: Weights = None,
    input_shape: InputShape = None,
    data: Data = None,
    normalize: Normalize = None,
    backend: BackendName = "torch",
    device: DeviceName = "cpu",
    threads: Threads = None,
    batch: Batch = 1,
    dtype: Dtype = "float32",
    channels_last: ChannelsLast = False,
    kit: Kit = None,
    from_kit: FromKit = None,
    plot: Plot = None,
    output: Output = "latency.json",
) -> None:
    """Measure how long every layer of a network takes at any width, and write a latency table.

    Every distinct layer is measured once, coarsely and then wherever the latency bends or steps;
    whole networks calibrate the sum. Interrupted, the same command goes on where it was.
    """
    from autoprune.cli.display import console
    from autoprune.cli.inspect import example_inputs
    from autoprune.cli.progress_bars import listen
    from autoprune.cli.search import Interrupted
    from autoprune.core.allocator import kept_memory
    from autoprune.core.files import check_writable
    from autoprune.core.randomness import kept_random_states
    from autoprune.cost.latency.conditions import Conditions
    from autoprune.engine.problem import prunable_structure
    from autoprune.errors import UsageError
    from autoprune.models import DEMO
    from autoprune.models.loading import load_model
    from autoprune.profiling.backends.onnx import check_onnx
    from autoprune.profiling.backends.registry import backend_class, make_backend
    from autoprune.profiling.host import measure_table
    from autoprune.profiling.kit.read import read_kit
    from autoprune.profiling.kit.write import write_kit
    from autoprune.profiling.plots import check_plotly
    from autoprune.profiling.plots import plot as draw
    from autoprune.profiling.subject import Subject

    path = Path(output)
    if path.exists() and kit is None:
        raise UsageError(f"{output!r} is there already: remove it or choose another --output.")
    if kit is not None and from_kit is not None:
        raise UsageError("--kit writes a folder, --from-kit reads its results: give one.")
    written = {"--output": output} if kit is None else {"--kit": kit}
    for option, place in {**written, "--plot": plot}.items():
        if place is not None:
            check_writable(Path(place), option, is_folder=option == "--kit")
    elsewhere = kit is not None or from_kit is not None
    name = "onnxruntime" if elsewhere else backend
    form = "channels_last" if channels_last else "contiguous"
    if threads is None and not elsewhere:
        threads = backend_class(name).default_threads()
    conditions = Conditions(name, device, threads, batch, dtype, form)
    # A mistake is told before the network is loaded; a kit is for what another device has.
    (check_onnx if elsewhere else make_backend)(conditions)
    if plot is not None:
        check_plotly()
    spec = model or DEMO
    network = load_model(spec, weights)
    inputs = example_inputs(spec, network, input_shape, data, normalize)
    with kept_memory(), kept_random_states(), listen(False) as progress:
        subject = Subject(network, prunable_structure(network, inputs, [], progress), inputs)
        if kit is not None:
            count = write_kit(Path(kit), subject, conditions)
            console().print(f"{kit}: {count} models; how to go on is in its README.txt")
            return
        if from_kit is not None:
            table = read_kit(Path(from_kit), subject, conditions)
            table.save(path)
        else:
            try:
                table = measure_table(subject, conditions, path, progress)
            except KeyboardInterrupt as stop:
                raise Interrupted(
                    f"Interrupted: what was measured is kept in {path}.part: run the same command "
                    "again to go on."
                ) from stop
    if plot is not None:
        draw(table, Path(plot))
    _show(table, path, spec)


def _show(table: LatencyTable, path: Path, spec: str) -> None:
    """Print what a table holds, and whether it can be trusted."""
    from autoprune.cli.display import console, warn
    from autoprune.cost.latency.table import describe_error, describe_noise

    for doubt in filter(None, (describe_noise(table.origin), describe_error(table))):
        warn(doubt)
    correction, seconds = table.correction, table.origin.seconds
    usual, largest = correction.relative_error or 0.0, correction.largest_error or 0.0
    took = f" in {seconds:.0f} s" if seconds else ""  # a kit does not say
    console().print(
        f"{path}: {len(table.layers)} layers of {spec}, {table.origin.measurements} measurements"
        f"{took}, {table.about}; whole networks are predicted to {100 * usual:.1f} % (at worst "
        f"{100 * largest:.1f} %)"
    )

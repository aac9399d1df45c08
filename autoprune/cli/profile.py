"""`autoprune profile`: measure the latency table of a network on this device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.options.commands import ProfileOptions
from autoprune.options.option import read_options
from autoprune.options.origin import Restrictions

if TYPE_CHECKING:
    from autoprune.core.progress import Progress
    from autoprune.cost.latency.conditions import Conditions
    from autoprune.cost.latency.table import LatencyTable
    from autoprune.errors import Interrupted
    from autoprune.profiling.subject import Subject


def profile(given: Mapping[str, Any]) -> None:
    """Measure how long every layer of a network takes at any width, and write a latency table.

    Every distinct layer is measured once, coarsely and then wherever the latency bends or steps;
    whole networks calibrate the sum. Interrupted, the same command goes on where it was.
    """
    options = read_options(ProfileOptions, given)

    from autoprune.cli.display import point_to
    from autoprune.cli.inspect import example_inputs
    from autoprune.cli.progress_bars import listen
    from autoprune.core.allocator import kept_memory
    from autoprune.core.randomness import kept_random_states
    from autoprune.engine.problem import prunable_structure
    from autoprune.errors import counted
    from autoprune.models.loading import load_model
    from autoprune.profiling.kit.write import write_kit
    from autoprune.profiling.subject import Subject

    _check_places(options)
    conditions = _conditions(options)
    spec = _network_of(options)
    network = load_model(spec, options.weights)
    inputs = example_inputs(spec, network, options)
    with kept_memory(), kept_random_states(), listen(False) as progress:
        structure = prunable_structure(network, inputs, Restrictions(), progress)
        subject = Subject(network, structure, inputs)
        if options.kit is not None:
            count = write_kit(Path(options.kit), subject, conditions)
            models = counted(count, "model")
            point_to(f"{options.kit}: {models}; how to go on is in its README.txt")
            return
        if options.ray is not None:
            _measure_nodes(subject, conditions, options.ray, options, progress)
            return
        table = _table(subject, conditions, options, progress)
    _show(table, Path(options.output), options)


def _network_of(options: ProfileOptions) -> str:
    from autoprune.models import DEMO

    return options.model or DEMO


def _check_places(options: ProfileOptions) -> None:
    """Refuse what cannot be written, or is there already, before a network is loaded."""
    from autoprune.core.files import check_writable
    from autoprune.engine.ray_cluster import check_ray
    from autoprune.errors import UsageError

    output, kit = options.output, options.kit
    if Path(output).exists() and kit is None:
        raise UsageError(f"{output!r} is there already: remove it or choose another --output.")
    if kit is not None and options.from_kit is not None:
        raise UsageError("--kit writes a folder, --from-kit reads its results: give one.")
    if options.ray is not None and (kit or options.from_kit):
        raise UsageError("--ray measures nodes of a cluster, a kit what is in none: give one.")
    check_ray(options.ray)
    written = {"--output": output} if kit is None else {"--kit": kit}
    for option, place in {**written, "--plot": options.plot}.items():
        if place is not None:
            check_writable(Path(place), option, is_folder=option == "--kit")


def _conditions(options: ProfileOptions) -> Conditions:
    """Return what is measured with; threads that are not given are those of the device there."""
    from autoprune.cost.latency.conditions import Conditions
    from autoprune.profiling.backends.onnx import check_onnx
    from autoprune.profiling.backends.registry import backend_class, make_backend

    is_kit = options.kit is not None or options.from_kit is not None
    backend, threads = "onnxruntime" if is_kit else options.backend, options.threads
    is_here = not is_kit and options.ray is None
    if threads is None and is_here:
        threads = backend_class(backend).default_threads()
    form = "channels_last" if options.channels_last else "contiguous"
    conditions = Conditions(backend, options.device, threads, options.batch, options.dtype, form)
    if is_kit:
        check_onnx(conditions)
    elif is_here:
        make_backend(conditions)
    return conditions


def _table(
    subject: Subject, conditions: Conditions, options: ProfileOptions, progress: Progress
) -> LatencyTable:
    """Return the table, of a kit's results or measured here, after writing it.

    Raises:
        Interrupted: by Ctrl-C.
    """
    from autoprune.profiling.backends.registry import make_backend
    from autoprune.profiling.host import measure_table
    from autoprune.profiling.kit.read import read_kit

    path = Path(options.output)
    if options.from_kit is not None:
        table = read_kit(Path(options.from_kit), subject, conditions)
        table.save(path)
        return table
    try:
        return measure_table(subject, make_backend(conditions), path, progress)
    except KeyboardInterrupt as stop:
        raise _interrupted(path) from stop


def _interrupted(path: Path) -> Interrupted:
    from autoprune.errors import Interrupted

    return Interrupted(
        f"Interrupted: what was measured is kept in {path}.part: run the same command again to go "
        "on."
    )


def _measure_nodes(
    subject: Subject,
    conditions: Conditions,
    address: str,
    options: ProfileOptions,
    progress: Progress,
) -> None:
    """Measure the nodes of a cluster, and print what became of them.

    Raises:
        MeasuringError: A node could not be measured; the tables of the others are written.
        Interrupted: by Ctrl-C.
    """
    from autoprune.cli.display import point_to
    from autoprune.cost.latency.table import LatencyTable
    from autoprune.engine.ray_profiling import measure_nodes
    from autoprune.errors import MeasuringError, counted

    output = Path(options.output)
    try:
        found = measure_nodes(subject, conditions, address, output, progress)
    except KeyboardInterrupt as stop:
        raise _interrupted(output.with_name(f"{output.stem}-NODE{output.suffix}")) from stop
    failed = []
    for path, outcome in found.items():
        if isinstance(outcome, LatencyTable):
            _show(outcome, path, options)
        elif outcome is None:
            point_to(f"{path} is there already, and its node is not measured again")
        else:
            failed.append(f"{path}: {outcome}")
    if failed:
        nodes = counted(len(found), "node")
        raise MeasuringError(f"{len(failed)} of {nodes} could not be measured: {failed[0]}")


def _show(table: LatencyTable, path: Path, options: ProfileOptions) -> None:
    """Print what a table holds, and whether it can be trusted; draw it if that is asked for."""
    from autoprune.cli.display import point_to, warn
    from autoprune.cost.latency.table import describe_error, describe_noise
    from autoprune.errors import counted
    from autoprune.reporting.latency_page import write_latency_page

    if options.plot is not None:
        page, node = Path(options.plot), path.stem.removeprefix(Path(options.output).stem)
        write_latency_page(table, page.with_name(f"{page.stem}{node}{page.suffix}"))
    for doubt in filter(None, (describe_noise(table.origin), describe_error(table))):
        warn(doubt)
    correction, seconds = table.correction, table.origin.seconds
    usual, largest = correction.relative_error or 0.0, correction.largest_error or 0.0
    took = f" in {seconds:.0f} s" if seconds else ""  # a kit does not say
    point_to(
        f"{path}: {counted(len(table.layers), 'layer')} of {_network_of(options)}, "
        f"{counted(table.origin.measurements, 'measurement')}"
        f"{took}, {table.about}; whole networks are predicted to within "
        f"{100 * usual:.1f} % (at worst {100 * largest:.1f} %)"
    )

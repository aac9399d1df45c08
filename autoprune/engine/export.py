"""Exports the network of a run: writes the file, checks it, times it, and records it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.files import check_writable, write_whole
from autoprune.cost.budget import UNBOUNDED
from autoprune.cost.latency.conditions import Conditions
from autoprune.data import (
    Partition,
    Samples,
    Splits,
    SplitSizes,
    has_photos,
    load_splits,
    partition,
)
from autoprune.data.forms import Inputs, tensors, with_floats
from autoprune.data.splits import SamplesSplit
from autoprune.errors import UsageError, spelt
from autoprune.exporters.base import Exporter
from autoprune.exporters.checking import check_equal, compare_classes, deviation
from autoprune.exporters.registry import KIND
from autoprune.models.input_shapes import declared_image_size
from autoprune.options.search import SearchConfig
from autoprune.options.stored import SETTINGS, stored_settings
from autoprune.profiling.backends.program import Predict, Program
from autoprune.profiling.backends.registry import backend_class, make_backend
from autoprune.structure.surgery import deep_copy
from autoprune.study.result import with_export
from autoprune.study.run_directory import RunDirectory

# The samples of a check: each alone, then all together.
CHECKED = 8
# Of the run's calibration samples, so many at most are used for int8.
CALIBRATED = 300
# What of a run's settings says which samples it drew.
_DRAWN = ("calibration_samples", "search_samples", "selection_samples", "seed")


@dataclass(frozen=True, eq=False)
class Export:
    """What is to be exported, and where.

    Attributes:
        run: the run.
        exporter: of the format.
        is_int8: whether the file is quantised.
        path: of the file that is named to the user; others of a set lie beside it.
    """

    run: RunDirectory
    exporter: Exporter
    is_int8: bool
    path: Path

    @property
    def paths(self) -> list[Path]:
        """All files of the set, the one that is named to the user first."""
        return [self.path.with_suffix(suffix) for suffix in self.exporter.suffixes]

    @property
    def recorded_path(self) -> str:
        """The path as the result has it: inside the run relative to it, otherwise whole."""
        path, run = self.path.absolute(), self.run.path.absolute()
        return (path.relative_to(run) if path.is_relative_to(run) else path).as_posix()

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is written and compared; the last is what was asked for."""
        return ("dense", "float", "int8") if self.is_int8 else ("dense", "float")

    def key(self, kind: str, figure: str) -> str:
        """Return the key in the result of a figure of one of the `kinds`."""
        return figure if kind == self.kinds[-1] else f"{kind}_{figure}"

    @property
    def threads(self) -> int:
        """The threads that the runtime uses by itself."""
        return backend_class(self.exporter.backend).default_threads()

    def open(self, path: Path) -> Predict:
        """Return a function that runs a file in the runtime."""
        return self.exporter.open(path, self.threads)


def plan_export(
    run: RunDirectory, format: str | Exporter, is_int8: bool, output: Path | None
) -> Export:
    """Return what is to be exported, after checks that take no time.

    Raises:
        UsageError: the format is unknown, its packages are missing, or it has no int8.
        RunError: the run has no result, or the file is there already or cannot be written.
    """
    exporter: Exporter = KIND.make(format, Exporter)  # type: ignore[type-abstract]
    exporter.check(is_int8)
    run.check_finished()
    name = "pruned-int8" if is_int8 else "pruned"
    path = run.path / "export" / f"{name}{exporter.suffixes[0]}" if output is None else output
    check_writable(path, spelt("output"))
    if path.suffix not in exporter.suffixes:
        path = path.with_name(f"{path.name}{exporter.suffixes[0]}")
    export = Export(run, exporter, is_int8, path.with_suffix(exporter.suffixes[0]))
    for one in export.paths:
        check_writable(one, spelt("output"))
        if one.exists():
            raise UsageError(
                f"{str(one)!r} is there already: remove it or choose another {spelt('output')}."
            )
    return export


def named_splits(run: RunDirectory, model: nn.Module) -> Splits:
    """Return the data that a run names.

    Args:
        run: the run.
        model: the network, which may say how large photos are.

    Raises:
        UsageError: it names none, or code, which is not imported because a run names it.
    """
    stored = stored_settings(run)
    spec = stored.get("data")
    is_installed = SETTINGS["data"].kind.is_installed
    if spec is None or is_installed is None or not is_installed(spec):
        told = "does not name its data" if spec is None else f"names code for its data, {spec!r}"
        raise UsageError(f"the run in {str(run.path)!r} {told}: give {spelt('data')}.")
    size = stored.get("image_size")
    if size is None and has_photos(spec):
        size = declared_image_size(model)
    return load_splits(spec, stored.get("normalize"), stored.get("classes"), size)


def export_network(
    export: Export, dense: nn.Module, pruned: nn.Module, splits: Splits
) -> dict[str, Any]:
    """Write a network's file if it computes what PyTorch does, and record it in the run's result.

    Args:
        export: what is to be exported.
        dense: the network that the run began with; its weights do not matter.
        pruned: the network to export.
        splits: the run's data, whose inputs the networks take.

    Returns:
        The entry of `export` in the result.

    Raises:
        ModelError: the network cannot be exported, or the file computes something else.
        RunError: the run is being written by another process.
    """
    known = splits.train if splits.val is None else splits.val
    inputs = with_floats(known.take(range(min(CHECKED, len(known)))).inputs, torch.float32)
    pruned = deep_copy(pruned).eval().to("cpu", torch.float32)
    with export.run.held(), tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder, f"{name}{export.path.suffix}") for name in export.kinds}
        _write(export, dense, inputs, files["dense"])
        program = _write(export, pruned, inputs, files["float"])
        batches = _batches(inputs, program.takes_any_batch)
        found = deviation(export.open(files["float"]), pruned, batches)
        check_equal(found)
        scores: dict[str, Any] = {}
        if export.is_int8:
            images = _run_images(export.run, splits)
            export.exporter.quantize(files["float"], _calibration(images), files["int8"])
            found = deviation(export.open(files["int8"]), pruned, batches)
            scores = _scores(export, files, pruned, images)
        entry = {
            "format": export.exporter.name,
            "int8": export.is_int8,
            "file": export.recorded_path,
            "batch": None if program.takes_any_batch else 1,
            "max_error": found.absolute,
            "relative_error": found.relative,
            **_sizes(export, files),
            **_latencies(export, files, batches[0]),
            **scores,
        }
        _hand_over(export, files[export.kinds[-1]], entry)
    return entry


def _write(export: Export, network: nn.Module, inputs: Inputs, path: Path) -> Program:
    program = export.exporter.program(network, inputs)
    export.exporter.write(program, path)
    return program


def _batches(inputs: Inputs, any_batch: bool) -> list[Inputs]:
    """Return every sample as a batch, and all of them as one where the batch size is free."""
    whole = Samples(inputs, None)
    alone = [whole[place : place + 1].inputs for place in range(len(whole))]
    return [*alone, inputs] if any_batch else alone


def _run_images(run: RunDirectory, splits: Splits) -> Partition:
    """Return the samples that the run drew."""
    stored = stored_settings(run)
    config = SearchConfig(UNBOUNDED, **{key: stored[key] for key in _DRAWN if key in stored})
    sizes = SplitSizes(config.calibration_samples, config.search_samples, config.selection_samples)
    return partition(splits, sizes, config.seed)


def _calibration(images: Partition) -> list[list[Tensor]]:
    inputs = with_floats(images.calibration.first(CALIBRATED).inputs, torch.float32)
    return [tensors(one) for one in _batches(inputs, any_batch=False)]


def _scores(
    export: Export, files: Mapping[str, Path], network: nn.Module, images: Partition
) -> dict[str, Any]:
    """Return how an int8 file does beside the float file, on samples that it was not made with."""
    name = "selection" if images.test is None else "test"
    split = SamplesSplit(images.selection) if images.test is None else images.test
    predicts = [export.open(files[kind]) for kind in ("float", "int8")]
    found = compare_classes(network, predicts, split)
    return {} if found is None else {"split": name, **found}


def _sizes(export: Export, files: Mapping[str, Path]) -> dict[str, int]:
    suffixes = export.exporter.suffixes
    return {
        export.key(kind, "bytes"): sum(path.with_suffix(one).stat().st_size for one in suffixes)
        for kind, path in files.items()
    }


def _latencies(export: Export, files: Mapping[str, Path], inputs: Inputs) -> dict[str, Any]:
    """Return what the files take for one sample, measured in turn."""
    backend = make_backend(Conditions(export.exporter.backend, threads=export.threads))
    given = [one.contiguous() for one in tensors(inputs)]
    with backend.session():
        timings = backend.measure([partial(export.open(path), given) for path in files.values()])
    measured = {
        export.key(kind, "latency_ms"): timing.ms
        for kind, timing in zip(files, timings, strict=True)
    }
    about = {"backend": backend.name, "device": backend.device_name(), "threads": export.threads}
    return {**measured, **about}


def _hand_over(export: Export, source: Path, entry: Mapping[str, Any]) -> None:
    """Put the files in their place and the entry into the result: all of it, or nothing."""
    folder, placed = export.path.parent, list[Path]()
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in reversed(export.paths):  # the file that is opened by its name is the last
            write_whole(path, partial(shutil.copyfile, source.with_suffix(path.suffix)))
            placed.append(path)
        export.run.save_result(with_export(export.run, entry))
    except BaseException:
        for path in placed:
            path.unlink(missing_ok=True)
        for one in made:
            with suppress(OSError):
                one.rmdir()
        raise

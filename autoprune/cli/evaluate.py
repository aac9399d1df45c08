"""`autoprune evaluate`: the pruned network of a run beside the dense one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli.options import AsJson, Classes, Data, Device, Model, Normalize, Trust, Weights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from autoprune.data import Split, Splits
    from autoprune.study.run_directory import RunDirectory

SPLITS = ("test", "val", "train")

Kit = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Write a folder that measures both networks on a device with Python and ONNX Runtime.",
    ),
]
FromKit = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Put what that kit measured into the run's result."),
]


def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")],
    data: Data = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="test, val or train (default: the first of these that there is)."
        ),
    ] = None,
    model: Model = None,
    weights: Weights = None,
    normalize: Normalize = None,
    classes: Classes = None,
    device: Device = None,
    kit: Kit = None,
    from_kit: FromKit = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Compare the pruned network of a run with the dense one: accuracy, loss, cost, latency.

    Model and data are taken from the run's config.toml where they are not given. Latency is
    measured at batch 1, the two networks in turn; on another device by a kit.
    """
    from rich.markup import escape

    from autoprune.cli.display import console, print_json, show_evaluation, show_measured
    from autoprune.core.files import check_writable
    from autoprune.engine.winner_kit import read_winner_kit
    from autoprune.errors import UsageError
    from autoprune.study.run_directory import RunDirectory

    if kit is not None and from_kit is not None:
        raise UsageError("--kit writes a folder, --from-kit reads its results: give one.")
    given = {
        "model": model,
        "weights": weights,
        "data": data,
        "normalize": normalize,
        "classes": classes,
        "device": device,
    }
    if from_kit is not None:
        extra = [name for name, value in {**given, "split": split}.items() if value is not None]
        if extra:
            raise UsageError(f"--from-kit reads results: leave out --{extra[0]}.")
        measured = read_winner_kit(Path(from_kit), RunDirectory(run))
        (print_json if as_json else show_measured)(measured)
        return
    if kit is not None:
        check_writable(Path(kit), "--kit", is_folder=True)
    named = {key: value for key, value in given.items() if value is not None}
    subjects = load_subjects(run, named, split, trust)
    if kit is not None:
        subjects.pack(Path(kit))
        console().print(escape(f"{kit}: how to measure the winner elsewhere is in its README.txt"))
        return
    report = subjects.compare()
    (print_json if as_json else show_evaluation)(report)


@dataclass(frozen=True, eq=False)
class Subjects:
    """The networks of a run and the images that they are compared on.

    Attributes:
        run: the directory.
        dense, pruned: the networks, on `device`.
        data: where the images are from.
        split_name, split: the images.
        device: of the networks.
    """

    run: RunDirectory
    dense: nn.Module
    pruned: nn.Module
    data: str
    split_name: str
    split: Split
    device: torch.device

    def compare(self) -> dict[str, Any]:
        """Return what `autoprune evaluate --json` prints."""
        from autoprune.cli.display import warn
        from autoprune.core.randomness import kept_random_states
        from autoprune.data.forms import map_tensors
        from autoprune.evaluation.classification import score_split
        from autoprune.profiling.host import host_figures
        from autoprune.study.result import costs_of

        networks = [self.dense, self.pruned]
        with kept_random_states():
            dense_scores, scores = score_split(self.dense, [self.pruned], self.split, warn)
            one = map_tensors(lambda value: value.to(self.device), self.split.take([0]).inputs)
            latency = host_figures(networks, one)
        costs = costs_of(self.run)
        rows = {
            kind: {
                "top1": own.top1,
                "loss": own.loss,
                **costs[kind],
                "latency_ms": ms,
            }
            for kind, own, ms in zip(
                ("dense", "pruned"),
                (dense_scores, scores),
                latency.measured_ms or (None, None),
                strict=True,
            )
        }
        return {
            "run": str(self.run.path),
            "data": self.data,
            "split": self.split_name,
            "samples": scores.samples,
            "device": str(self.device),
            "latency": latency.report(),
            **rows,
            "kl": scores.kl,
        }

    def pack(self, folder: Path) -> None:
        """Write a kit that measures the networks on another device."""
        from autoprune.engine.winner_kit import write_winner_kit

        inputs = self.split.take([0]).inputs
        write_winner_kit(folder, self.run, self.dense, self.pruned, inputs)


def load_subjects(
    run: str, given: Mapping[str, str], split_name: str | None, trusts: bool = False
) -> Subjects:
    """Return what is compared.

    Args:
        run: a run directory.
        given: "model", "weights", "data", "normalize", "classes" and "device" that replace the
            run's own.
        split_name: a name in `SPLITS`, or None for the first that the data has.
        trusts: whether code may be imported because the run names it.

    Raises:
        AutopruneError: anything that the user can mend.
    """
    from autoprune.api import load_pruned
    from autoprune.cli.display import warn
    from autoprune.data import load_splits
    from autoprune.models.devices import find_device
    from autoprune.models.loading import load_model
    from autoprune.options.search import stored_settings
    from autoprune.structure.inputs import adapt_splits
    from autoprune.study.run_directory import RunDirectory

    directory = RunDirectory(run)
    origin = _origin(stored_settings(directory), given, run, trusts)
    directory.load_policy()  # an unfinished run is refused before anything is loaded
    device = find_device(origin.get("device"))
    splits = load_splits(origin["data"], origin.get("normalize"), origin.get("classes"))
    for note in splits.notes:
        warn(note)
    _choose(splits, split_name, origin["data"])  # a mistake is told before the network is loaded
    dense = load_model(origin["model"], origin.get("weights")).to(device).eval()
    name, split = _choose(adapt_splits(splits, dense), split_name, origin["data"])
    pruned = load_pruned(dense, run).to(device)
    return Subjects(directory, dense, pruned, origin["data"], name, split, device)


def _origin(
    stored: Mapping[str, Any], given: Mapping[str, str], run: str, trusts: bool
) -> dict[str, str]:
    """Return where model and data come from: the run's own words, where nothing else is given."""
    from autoprune.cli.settings import NAME_OR_TRUST, agreed
    from autoprune.core.plugins import names_object
    from autoprune.data import reads_classes
    from autoprune.errors import UsageError

    names = ("model", "weights", "data", "normalize", "classes")  # the device is this machine's own
    kept = {name: stored[name] for name in names if name in stored}
    if "model" in given:
        kept.pop("weights", None)  # another network has other weights
    if "data" in given and names_object(given["data"]):
        kept.pop("normalize", None)  # a factory normalises itself
    if not reads_classes(given.get("data", "") or kept.get("data", "")):
        kept.pop("classes", None)
    own = {key: value for key, value in kept.items() if key not in given}
    origin = {**agreed(Path(run), own, trusts, NAME_OR_TRUST), **given}
    lacking = [f"--{name} SPEC" for name in ("model", "data") if name not in origin]
    if lacking:
        raise UsageError(
            f"the run in {run!r} was made from Python and does not say what it was made of: "
            f"give {' and '.join(lacking)}."
        )
    return origin


def _choose(splits: Splits, name: str | None, data: str) -> tuple[str, Split]:
    from autoprune.errors import UsageError, did_you_mean

    there = {known: getattr(splits, known) for known in SPLITS if getattr(splits, known)}
    if name is not None and name not in SPLITS:
        raise UsageError(f"unknown split {name!r}; {did_you_mean(name, SPLITS)}")
    if name is not None and name not in there:
        raise UsageError(f"data {data!r} has no {name} split; choose one of: {', '.join(there)}.")
    chosen = name or next(iter(there))
    return chosen, there[chosen]

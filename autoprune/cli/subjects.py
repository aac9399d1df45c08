"""The networks that `autoprune evaluate` compares, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.api import load_pruned
from autoprune.cli.display import warn
from autoprune.cli.stored_options import NAME_OR_TRUST, agreed
from autoprune.core.plugins import names_object
from autoprune.core.randomness import kept_random_states
from autoprune.data import Split, Splits, has_photos, load_splits
from autoprune.data.forms import map_tensors
from autoprune.engine.winner_kit import write_winner_kit
from autoprune.errors import UsageError, did_you_mean
from autoprune.evaluation.measurement import Scores
from autoprune.evaluation.outputs import score_on_split
from autoprune.evaluation.scoring import CustomScorer, find_distance, find_evaluate
from autoprune.models.devices import find_device
from autoprune.models.input_shapes import declared_image_size
from autoprune.models.loading import load_model
from autoprune.options.commands import SUBJECT
from autoprune.options.stored import stored_settings
from autoprune.profiling.host import host_figures
from autoprune.structure.inputs import adapt_splits
from autoprune.structure.output_distance import Distance
from autoprune.structure.plain_weights import with_plain_weights
from autoprune.structure.wrappers import plain_network
from autoprune.study.reload import load_trained
from autoprune.study.result import costs_of
from autoprune.study.run_directory import RunDirectory

SPLITS = ("test", "val", "train")
# What a run says of the networks, the images and scores; the device is this machine's own.
_OF_RUN = (*(name for name in SUBJECT if name != "device"), "distance")


@dataclass(frozen=True, eq=False)
class Subjects:
    """The networks of a run and the images that they are compared on.

    Attributes:
        run: the directory.
        dense, pruned: the networks, on `device`.
        data: where the images are from.
        split_name, split: the images.
        evaluate: the user's own score, instead of one on the images; None where there is none.
        distance: the user's own distance of outputs from the dense network's; likewise.
        device: of the networks.
    """

    run: RunDirectory
    dense: nn.Module
    pruned: nn.Module
    data: str
    split_name: str
    split: Split
    evaluate: Callable[[nn.Module], float] | None
    distance: Distance | None
    device: torch.device

    def compare(self) -> dict[str, Any]:
        """Return what `autoprune evaluate --json` prints."""
        with kept_random_states():
            dense_scores, scores = self._scores()
            one = map_tensors(lambda value: value.to(self.device), self.split.take([0]).inputs)
            latency = host_figures([self.dense, self.pruned], one)
        costs = costs_of(self.run)
        rows = {
            kind: {
                "top1": own.top1,
                "score": own.custom,
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
            "split": self.split_name if self.evaluate is None else "user",
            "samples": scores.samples if self.evaluate is None else None,
            "device": str(self.device),
            "latency": latency.report(),
            **rows,
            "kl": scores.kl,
            "agreement": scores.agreement,
        }

    def _scores(self) -> tuple[Scores, Scores]:
        """Return the scores of the dense network and of the pruned one."""
        if self.evaluate is not None:
            scorer = CustomScorer(self.dense, self.evaluate)
            return scorer.dense, scorer.score(self.pruned)
        dense, pruned = score_on_split(self.dense, [self.pruned], self.split, self.distance, warn)
        return dense, pruned

    def pack(self, folder: Path) -> None:
        """Write a kit that measures the networks on another device."""
        inputs = self.split.take([0]).inputs
        write_winner_kit(folder, self.run, self.dense, self.pruned, inputs)


def load_subjects(
    run: str, given: Mapping[str, str], split_name: str | None, trusts: bool = False
) -> Subjects:
    """Return what is compared.

    Args:
        run: a run directory.
        given: "model", "weights", "data", "normalize", "classes", "evaluate" and "device" that
            replace the run's own.
        split_name: a name in `SPLITS`, or None for the first that the data has.
        trusts: whether code may be imported because the run names it.

    Raises:
        AutopruneError: anything that the user can mend.
    """
    directory = RunDirectory(run)
    origin = _origin(stored_settings(directory), given, run, trusts)
    if "evaluate" in origin and split_name is not None:
        raise UsageError(
            f"evaluate {origin['evaluate']!r} chooses its own images: leave out --split."
        )
    directory.load_policy()  # an unfinished run is refused before anything is loaded
    evaluate, distance = (
        find_evaluate(origin.get("evaluate")),
        find_distance(origin.get("distance")),
    )
    device = find_device(origin.get("device"))
    dense, splits = load_origin(origin)
    dense = dense.to(device).eval()
    if "weights" not in given:
        dense = with_plain_weights(plain_network(dense))
        load_trained(dense, directory)
    for note in splits.notes:
        warn(note)
    name, split = _choose(adapt_splits(splits, dense), split_name, origin["data"])
    pruned = load_pruned(dense, run).to(device)
    return Subjects(
        directory, dense, pruned, origin["data"], name, split, evaluate, distance, device
    )


def load_dense(
    run: RunDirectory, given: Mapping[str, str], trusts: bool = False
) -> tuple[nn.Module, Splits, Mapping[str, str]]:
    """Return the dense network of a run, its data, and the names of the user's own functions.

    Args:
        run: the run directory.
        given: as for `load_subjects`.
        trusts: likewise.

    Raises:
        AutopruneError: anything that the user can mend.
    """
    origin = _origin(stored_settings(run), given, str(run.path), trusts)
    run.load_policy()  # an unfinished run is refused before anything is loaded
    device = find_device(origin.get("device"))
    dense, splits = load_origin(origin)
    for note in splits.notes:
        warn(note)
    named = ("evaluate", "distance")
    functions: dict[str, str] = {name: origin[name] for name in named if name in origin}
    return dense.to(device).eval(), splits, functions


def load_origin(origin: Mapping[str, Any]) -> tuple[nn.Module, Splits]:
    """Return the network and the data that options name.

    Data are read first, so that a mistake there is told at once, unless the network says how large
    photos are.

    Args:
        origin: "model" and "data", perhaps "weights", "normalize", "classes" and "image_size".

    Raises:
        AutopruneError: anything that the user can mend.
    """

    def read(image_size: int | None) -> Splits:
        return load_splits(
            origin["data"], origin.get("normalize"), origin.get("classes"), image_size
        )

    size = origin.get("image_size")
    asks_network = size is None and has_photos(origin["data"])
    splits = None if asks_network else read(size)
    model = load_model(origin["model"], origin.get("weights"))
    return model, read(declared_image_size(model)) if splits is None else splits


def _origin(
    stored: Mapping[str, Any], given: Mapping[str, str], run: str, trusts: bool
) -> dict[str, str]:
    """Return where model and data come from: as the run says, unless others are given."""
    kept = {name: stored[name] for name in _OF_RUN if name in stored}
    if "model" in given and "model" in kept:
        kept.pop("weights", None)  # another network has other weights
    if "data" in given and names_object(given["data"]):
        kept.pop("normalize", None)  # a factory normalises itself
    if not has_photos(given.get("data", "") or kept.get("data", "")):
        for name in ("classes", "image_size"):
            kept.pop(name, None)
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

    there = {known: getattr(splits, known) for known in SPLITS if getattr(splits, known)}
    if name is not None and name not in SPLITS:
        raise UsageError(f"unknown split {name!r}; {did_you_mean(name, SPLITS)}")
    if name is not None and name not in there:
        raise UsageError(f"data {data!r} has no {name} split; choose one of: {', '.join(there)}.")
    chosen = name or next(iter(there))
    return chosen, there[chosen]

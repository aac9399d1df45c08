"""What a search reports: the contents of `result.json` (keys are added, never renamed)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from msgspec import UNSET, Struct, UnsetType, defstruct

from autoprune.core.policy import Widths
from autoprune.core.records import (
    AboveZero,
    Name,
    Natural,
    Quantity,
    Table,
    Text,
    Width,
    plain,
    read,
)
from autoprune.cost import COUNTED, cost_class
from autoprune.cost.latency.figures import LatencyFigures
from autoprune.errors import RunError, UsageError, first_line
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.study.run_directory import RunDirectory
from autoprune.study.trial import Trial

Excerpt = TypeVar("Excerpt")


@dataclass(frozen=True)
class Outcome:
    """What a search ended with.

    Attributes:
        winner: the winner's measurement on the selection split.
        sizes: units per group of the dense network.
        dense, pruned: scores on `split`; pruned right after the cut.
        recovered: scores on it after recovery; None if that did not help, or was off.
        split: "test", or "selection" where there is no test split.
        latency: predicted and measured.
    """

    winner: Measurement
    sizes: Sequence[int]
    dense: Scores
    pruned: Scores
    recovered: Scores | None
    split: str
    latency: LatencyFigures

    def report(self) -> dict[str, Any]:
        """Return the parts of the result that say what was gained."""
        return {
            "costs": self._costs(),
            "score": {
                "metric": "top1" if self.pruned.custom is None else "custom",
                "dense": self.dense.metric,
                "pruned": self.pruned.metric,
                "recovered": None if self.recovered is None else self.recovered.metric,
                "split": self.split,
                "samples": self.pruned.samples or None,  # `evaluate` does not say how many
                "kl": self.pruned.kl,
                "loss": self.pruned.loss,
                "agreement": self.pruned.agreement,
                "recovered_kl": None if self.recovered is None else self.recovered.kl,
                "recovered_loss": None if self.recovered is None else self.recovered.loss,
                "recovered_agreement": None if self.recovered is None else self.recovered.agreement,
            },
            "widths": {
                name: [kept, size]
                for name, kept, size in zip(
                    self.winner.names, self.winner.widths, self.sizes, strict=True
                )
            },
        }

    def _costs(self) -> dict[str, Any]:
        rows = {"dense": self.winner.dense_costs, "pruned": self.winner.costs}
        return _with_latency({kind: _cost_row(row) for kind, row in rows.items()}, self.latency)


def with_latency(result: Mapping[str, Any], figures: LatencyFigures) -> dict[str, Any]:
    """Return a result whose latencies are other ones."""
    return {**result, "costs": _with_latency(result["costs"], figures)}


def with_training(
    result: Mapping[str, Any], kind: str, scores: Scores | None, report: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a result with the figures of a training.

    Args:
        result: of the search.
        kind: "finetune" or "from_scratch".
        scores: of the network on the split that the result's other scores are of; None if training
            did not help, or they are not known.
        report: further figures.
    """
    known, name = scores or Scores(), _scored(kind)
    figures = {
        name: known.metric,
        f"{name}_kl": known.kl,
        f"{name}_loss": known.loss,
        f"{name}_agreement": known.agreement,
    }
    return {**result, "score": {**result["score"], **figures}, kind: dict(report)}


def without_training(result: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return a result without the figures of a training, which begins again."""
    score = {k: v for k, v in result["score"].items() if not k.startswith(_scored(kind))}
    return {**{key: value for key, value in result.items() if key != kind}, "score": score}


def is_trained(result: Mapping[str, Any], kind: str) -> bool:
    """Return whether a result has the figures of a training."""
    return kind in result


def _scored(kind: str) -> str:
    return "finetuned" if kind == "finetune" else kind


def _with_latency(costs: Mapping[str, Any], figures: LatencyFigures) -> dict[str, Any]:
    key, measured = _key("latency"), figures.measured_ms or (None, None)
    rows = {
        kind: {**costs[kind], key: ms}
        for kind, ms in zip(("dense", "pruned"), measured, strict=True)
    }
    return {**rows, "latency": figures.report()}


def _cost_row(costs: Mapping[str, float]) -> dict[str, int]:
    return {_key(name): round(costs[name]) for name in COUNTED if name in costs}


def _key(name: str) -> str:
    """Return the key in the result of a cost."""
    return cost_class(name).result_key


def costs_of(run: RunDirectory) -> dict[str, dict[str, float]]:
    """Return the costs of the networks "dense" and "pruned" that need no measurements.

    Raises:
        RunError: The result does not say.
    """
    # Results from before the other costs existed have these two alone.
    first = _key("flops"), _key("params")
    others = [key for key in map(_key, COUNTED) if key not in first]
    row = defstruct(
        "Row",
        [
            *((key, Quantity) for key in first),
            *((key, Quantity | UnsetType, UNSET) for key in others),
        ],
    )
    costs = defstruct("Costs", [("dense", row), ("pruned", row)])
    found: dict[str, dict[str, float]]
    found = plain(read_result(run, defstruct("Result", [("costs", costs)])))["costs"]
    return found


class _Predicted(Struct, frozen=True):
    predicted_ms: AboveZero | None
    predicted_dense_ms: AboveZero | None


class _PredictedCosts(Struct, frozen=True):
    latency: _Predicted
    dense: Table[Any]
    pruned: Table[Any]


class _WithPredictions(Struct, frozen=True):
    costs: _PredictedCosts
    budget: Text | None = None


def predictions_of(run: RunDirectory) -> tuple[tuple[float, float] | None, str | None]:
    """Return the predicted latencies, dense and pruned, None without a table; and the budget.

    Raises:
        RunError: the result does not say.
    """
    found = read_result(run, _WithPredictions)
    dense_ms, ms = found.costs.latency.predicted_dense_ms, found.costs.latency.predicted_ms
    return None if dense_ms is None or ms is None else (dense_ms, ms), found.budget


class Limits(Struct, frozen=True):
    """The trials that a search might make, its seconds, and the length of recovery."""

    trials: Natural = 0
    time: Quantity | None = None
    recover: Quantity | Name | None = None


class _Search(Struct, frozen=True):
    trials: Natural | UnsetType = UNSET
    limits: Limits = Limits()


class _WithSearch(Struct, frozen=True):
    search: _Search = _Search()


def limits_of(run: RunDirectory) -> tuple[Limits, int | None]:
    """Return the limits of the search, and how many trials it made, None if it does not say.

    Raises:
        RunError: the result holds anything else there.
    """
    search = read_result(run, _WithSearch).search
    return search.limits, None if search.trials is UNSET else search.trials


class _OnFrontier(Struct, frozen=True):
    widths: Table[Width]


class _WithFrontier(Struct, frozen=True):
    frontier: tuple[_OnFrontier, ...] = ()


def frontier_of(run: RunDirectory) -> tuple[dict[str, int], ...]:
    """Return the widths by group of every policy on the frontier; none if there is no frontier.

    Raises:
        RunError: the result holds anything else there.
    """
    return tuple(one.widths for one in read_result(run, _WithFrontier).frontier)


class _WithExport(Struct, frozen=True):
    export: tuple[dict[str, Any], ...] = ()


def with_export(run: RunDirectory, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a run with what it says of an exported file.

    Args:
        run: the run.
        entry: replaces that of an earlier file of the same "format" and "int8".

    Raises:
        RunError: the result holds anything else there.
    """
    known = read_result(run, _WithExport).export
    others = [one for one in known if any(one.get(k) != entry[k] for k in ("format", "int8"))]
    return {**run.load_result(), "export": [*others, entry]}


def read_result(run: RunDirectory, kind: type[Excerpt]) -> Excerpt:
    """Return an excerpt of a run's result.

    Raises:
        RunError: the run is not finished, or its result holds anything else there.
    """
    try:
        return read(run.load_result(), kind)
    except UsageError:
        raise
    except ValueError as error:
        raise RunError(
            f"{str(run.result_path)!r} was altered, or is of an older version "
            f"({first_line(error)}): search again."
        ) from error


def frontier(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """Return the trials that no other beats in their score and one of the costs, by rising MACs.

    The score is the KL, or that of the user's `evaluate`.
    """
    seen = [
        (loss, t.measurement)
        for t in trials
        if t.measurement is not None and math.isfinite(loss := _loss(t.measurement.scores))
    ]
    seen.sort(key=lambda row: (row[0], row[1].costs["flops"]))
    front: dict[Widths, Measurement] = {}
    # A resumed run may know costs that its first trials did not.
    for cost in dict.fromkeys(cost for _, one in seen for cost in one.costs):
        least = math.inf
        known = [row for row in seen if cost in row[1].costs]
        for loss, one in sorted(known, key=lambda row: row[1].costs[cost]):
            if loss < least:
                least = loss
                front.setdefault(one.widths, one)
    return [
        {
            "costs": dict(one.costs),
            "kl": one.scores.kl,
            "custom": one.scores.custom,
            "widths": dict(zip(one.names, one.widths, strict=True)),
        }
        for one in sorted(front.values(), key=lambda one: one.costs["flops"])
    ]


def _loss(scores: Scores) -> float:
    """Return the score that is to be small; NaN where there is none."""
    if scores.custom is not None:
        return -scores.custom
    return math.nan if scores.kl is None else scores.kl


def stage_seconds(trials: Iterable[Trial]) -> dict[str, float]:
    """Return the seconds that all evaluations spent, by stage."""
    seconds: dict[str, float] = {}
    for trial in trials:
        for stage, spent in (trial.measurement.seconds if trial.measurement else {}).items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    return seconds

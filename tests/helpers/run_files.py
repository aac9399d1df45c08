"""A run directory whose every figure is known, written without a search."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.study.group_records import (
    Curve,
    FrozenRecord,
    GroupRecord,
    GroupRecords,
    Members,
    Step,
)
from autoprune.study.ledger import Ledger
from autoprune.study.run_directory import RunDirectory
from autoprune.study.trial import Candidate, Trial

NAMES = ("stem", "body")
SIZES = (8, 4)
WINNER = (6, 2)
DENSE = {"flops": 200.0, "params": 100.0, "memory": 1000.0}

# (widths, kind, KL, top-1): MACs are 20 for each unit of the stem and 10 for each of the body.
TRIALS = (
    ((4, 4), "candidate", 0.4, 0.80),
    ((8, 4), "probe", 0.0, 0.95),
    ((6, 2), "candidate", 0.2, 0.90),
    ((6, 1), "candidate", 0.3, 0.85),
    ((5, 3), "candidate", 0.25, 0.91),
)

RESULT: dict[str, Any] = {
    "version": 1,
    "strategy": "auto",
    "searched_by": "netadapt",
    "budget": "flops=0.7",
    "reward": "kl",
    "seed": 3,
    "costs": {
        "dense": {"flops": 200, "params": 100, "memory_bytes": 1000, "latency_ms": 2.0},
        "pruned": {"flops": 140, "params": 60, "memory_bytes": 700, "latency_ms": 1.6},
        "latency": {
            "predicted_ms": None,
            "measured_ms": 1.6,
            "backend": "torch",
            "device": "cpu",
            "threads": 2,
            "predicted_dense_ms": None,
            "measured_dense_ms": 2.0,
            "verified": None,
        },
    },
    "score": {
        "metric": "top1",
        "dense": 0.95,
        "pruned": 0.90,
        "recovered": 0.93,
        "split": "test",
        "samples": 300,
        "kl": 0.2,
        "loss": 0.5,
        "recovered_kl": 0.1,
        "recovered_loss": 0.4,
    },
    "widths": {name: [kept, size] for name, kept, size in zip(NAMES, WINNER, SIZES, strict=True)},
    "search": {"trials": 5, "evaluations": 7, "failed": 0, "seconds": 10.0},
    "seconds": {"structure": 1.0, "scoring": 6.0, "batchnorm": 0.0, "recovery": None},
}


def costs_of(widths: Sequence[int]) -> dict[str, float]:
    macs = 20.0 * widths[0] + 10.0 * widths[1]
    return {"flops": macs, "params": macs / 2, "memory": 5 * macs}


def groups(names: Sequence[str] = NAMES, reason: str = "the network's output") -> GroupRecords:
    """Return what is known of the groups: losses of 0.1 and 0.4 for each unit that is cut."""
    return GroupRecords(
        groups=[
            GroupRecord(
                name=name,
                size=size,
                lowest=1,
                width=kept,
                members=Members([f"{name}.weight", f"{name}.twin.weight"], ["next.weight"]),
                share={"flops": share, "params": share, "memory": share},
                curve=Curve(
                    list(range(1, size + 1)),
                    losses=[round(loss * (size - w), 3) for w in range(1, size + 1)],
                ),
                steps=[
                    Step(width, costs_of([*WINNER[:place], width, *WINNER[place + 1 :]]))
                    for width in (kept - 1, kept + 1)
                ],
                order=list(range(size)),
            )
            for place, (name, size, kept, share, loss) in enumerate(
                zip(names, SIZES, WINNER, (0.8, 0.2), (0.1, 0.4), strict=True)
            )
        ],
        frozen=[FrozenRecord("head", 10, reason)],
    )


def write_run(
    path: Path,
    result: Mapping[str, Any] | None = None,
    known: GroupRecords | None = None,
    config: Mapping[str, Any] | None = None,
    trials: Sequence[tuple[Any, ...]] = TRIALS,
) -> Path:
    """Write a finished run; what is given replaces the usual figures."""
    run = RunDirectory(path)
    run.create({"model": "net.py:net", "budget": "flops=0.7", "seed": 3, **(config or {})})
    found = {**RESULT, **(result or {})}
    names = tuple(found["widths"])
    ledger = Ledger(SearchSpace(names, SIZES, (1, 1)), run.storage)
    for widths, kind, kl, top1 in trials:
        scores = Scores(kl=kl, top1=top1, samples=100)
        dense = Scores(kl=0.0, top1=0.95, samples=100)
        costs = costs_of(widths)
        measured = Measurement(widths, names, scores, dense, costs, DENSE, {"scoring": 1.0})
        ledger.record(Trial(Candidate(widths, kind), -kl, measured))
    run.save_groups(known or groups(names))
    run.weights_path.write_bytes(b"0" * 600)
    run.unrecovered_path.write_bytes(b"0" * 500)
    run.result_path.write_text(json.dumps(found))
    return path

"""Policies of an earlier run, brought onto another budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoprune.agents.recall import RecallConfig
from autoprune.agents.registry import check_strategy, make_strategy
from autoprune.errors import RunError, UsageError

SIZES = (20, 30, 40)
NEAREST = RecallConfig().nearest


def _run(folder: Path, *widths: tuple[int, ...]) -> str:
    names = [f"layer{i}" for i in range(3)]
    entries = [{"widths": dict(zip(names, one, strict=True))} for one in widths]
    (folder / "result.json").write_text(json.dumps({"frontier": entries}))
    return str(folder)


def test_the_nearest_policies_come_first_and_meet_the_budget(
    make_toy: Any, play: Any, tmp_path: Path
) -> None:
    toy = make_toy(SIZES, keep=0.5)
    near = toy.problem.projection.project([0.9, 0.6, 0.4])
    passed = [SIZES, near, *[(2 + i, 2 + i, 2 + i) for i in range(NEAREST)]]
    run = _run(tmp_path, *passed)
    trials = play(make_strategy("recall", toy.problem, from_run=run), toy.value, 30)
    asked = [trial.candidate.widths for trial in trials]
    assert asked[0] == near and len(asked) <= NEAREST
    assert all(
        toy.problem.projection.fits(w) and t.candidate.kind == "candidate"
        for w, t in zip(asked, trials, strict=True)
    )


@pytest.mark.parametrize(
    ("frontier", "message"),
    [
        ([], "left no frontier"),
        ("text", "altered.*frontier: 'text' is not a list"),
        ([{"widths": {"layer0": 2}}], "of another network"),
        ([{"widths": {"layer0": 2, "layer1": 3, "layer2": 41}}], "of another network"),
        (
            [{"widths": {"layer0": 2, "layer1": "x", "layer2": 4}}],
            "altered.*layer1: 'x' is not a whole",
        ),
        (["text"], "altered.*'text' is not an object"),
    ],
)
def test_runs_that_do_not_fit(frontier: Any, message: str, make_toy: Any, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"frontier": frontier}))
    with pytest.raises(RunError, match=message):
        make_strategy("recall", make_toy(SIZES).problem, from_run=str(tmp_path))


def test_a_run_is_needed_and_only_here(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="give from_run"):
        check_strategy("recall")
    with pytest.raises(RunError, match="holds no run"):
        check_strategy("recall", from_run=str(tmp_path))
    with pytest.raises(
        UsageError, match="from_run is for the strategy 'recall'; 'random' has none"
    ):
        check_strategy("random", from_run="x")

"""Strategies and importance criteria that are passed as objects."""

from __future__ import annotations

from pathlib import Path

import pytest
from searches import TINY, classifier, dataset

import autoprune
from autoprune.agents.base import Candidate, Strategy, Trial
from autoprune.agents.evolution import EvolutionStrategy
from autoprune.errors import UsageError
from autoprune.importance import L1Importance
from autoprune.study.run_directory import RunDirectory


class Second(Strategy):
    """Proposes the narrowest widths."""

    def ask(self) -> Candidate:
        return Candidate(self.problem.space.lowest)

    def tell(self, trial: Trial) -> None:
        """Nothing is learnt."""


def test_a_strategy_with_options_is_the_same_by_object_and_by_name(tmp_path: Path) -> None:
    options = {**TINY, "trials": 3}
    del options["strategy"]
    by_object, by_name = (
        autoprune.search(classifier(), data=dataset(), output=tmp_path / name, **options, **chosen)
        for name, chosen in (
            ("object", {"strategy": EvolutionStrategy(children=1)}),
            ("name", {"strategy": "evolution", "strategy_config": {"children": 1}}),
        )
    )
    assert by_object.result["widths"] == by_name.result["widths"]
    stored = [RunDirectory(run.path).load_config() for run in (by_object, by_name)]
    assert stored[0] == stored[1] and stored[0]["strategy_config"] == {"children": 1}
    with pytest.raises(UsageError, match=r"with strategy_config=.*begun with .*children"):
        autoprune.search(
            classifier(), data=dataset(), output=by_name.path, resume=True, **options,
            strategy="evolution",
        )  # fmt: skip


def test_custom_objects_are_named_in_the_run(tmp_path: Path) -> None:
    options = {**TINY, "strategy": Second(), "importance": L1Importance()}
    run = autoprune.search(classifier(), data=dataset(), output=tmp_path / "run", **options)
    stored = RunDirectory(run.path).load_config()
    assert stored["strategy"] == run.result["searched_by"] == f"{__name__}:Second"
    assert stored["importance"] == "l1" and "strategy_config" not in stored
    assert {kept for kept, _ in run.result["widths"].values()} == {1}

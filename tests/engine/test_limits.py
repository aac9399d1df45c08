"""Tuning constants of the stages, as they come from TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from searches import TINY, classifier, dataset

import autoprune
from autoprune.engine.limits import FinalistLimits, StageLimits
from autoprune.errors import UsageError


def test_what_is_not_named_stays_as_it_is() -> None:
    limits = StageLimits.from_mapping({"finalists": {"shortlist": 6}, "repair": {"pays": 0}})
    assert limits.finalists == FinalistLimits(shortlist=6)
    assert (limits.repair.pays, limits.repair.affordable) == (0, StageLimits().repair.affordable)
    assert StageLimits.from_mapping({}) == StageLimits()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"finalist": {}}, "unknown stage engine.finalist; did you mean 'finalists'"),
        ({"rounds": {"mots": 3}}, "the stage 'rounds' has no option 'mots'; did you mean 'most'"),
        ({"rounds": 3}, "engine must be tables of limits by stage, but got"),
        ({"rounds": {"most": 1.5}}, "the stage 'rounds' cannot have most=1.5"),
        ({"rounds": {"most": True}}, "the stage 'rounds' cannot have most=True"),
        ({"finalists": {"shortlist": 0}}, "cannot have shortlist=0: expected `int` >= 1"),
        ({"finalists": {"unscreened": 0}}, "cannot have unscreened=0"),
        ({"repair": {"pays": -1}}, "the stage 'repair' cannot have pays=-1"),
        ({"repair": {"pays": "4"}}, "the stage 'repair' cannot have pays='4'"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(
    values: Any, said: str, tmp_path: Path
) -> None:
    options = {**TINY, "engine": values, "output": tmp_path / "run"}
    with pytest.raises(UsageError, match=said):
        autoprune.search(classifier(), data=dataset(), **options)
    assert not (tmp_path / "run").exists()

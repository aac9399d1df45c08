"""What users get wrong in Python: one clear line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from searches import TINY, classifier, dataset
from torch import Tensor
from torch.utils.data import Dataset

import autoprune
from autoprune.errors import BudgetError, DataError, EvaluateError, ModelError, UsageError


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"budget": "flops=0.001"}, BudgetError, "out of reach"),
        ({"budget": "flop=0.5"}, BudgetError, "did you mean 'flops'"),
        ({"latency_table": "none.json"}, UsageError, "cannot read latency table"),
        ({"budget": 0.5}, UsageError, "budget must be a text"),
        ({"budget": None}, BudgetError, "the reward 'kl' needs a budget"),
        ({"budget": None, "reward": "accuracy_flops"}, UsageError, "'uniform' needs a budget"),
        ({"reward": "acuracy"}, UsageError, "unknown reward 'acuracy'; did you mean 'accuracy'"),
        ({"reward": 3}, UsageError, "reward must be a function or the name of one, but got 3"),
        ({"budget": {"flops": 2}}, BudgetError, "flops=0.02 for 2 percent, or a unit"),
        ({"strategy": "bayse"}, UsageError, "did you mean 'bayes'"),
        ({"importance": "obd"}, UsageError, "did you mean 'obs'"),
        ({"trial": 3}, UsageError, "unknown option 'trial'; did you mean 'trials'"),
        ({"trials": 0}, UsageError, "trials must be above zero"),
        ({"exclude": "nowhere"}, UsageError, "exclude: no layer matches 'nowhere'"),
        ({"min_keep": {"nowhere": 0.5}}, UsageError, "min_keep: no layer matches 'nowhere'"),
        ({"max_drop": 1}, UsageError, "max_drop stands instead of budget"),
        ({"output": 3}, UsageError, "output must be a path, but got 3"),
        ({"output": None, "resume": True}, UsageError, "resume=True needs output"),
        ({"round_to": 0}, UsageError, "round_to must be above zero, or auto, but got 0"),
        ({"search_samples": 0}, UsageError, "search_samples must be above zero"),
    ],
    ids=str,
)
def test_mistakes_are_one_clear_line_and_leave_nothing(
    changed: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as caught:
        autoprune.search(
            classifier(), data=dataset(), **{"output": tmp_path / "run", **TINY, **changed}
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [3, None, b"run"])
def test_what_is_no_path_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="run must be a path, but got"):
        autoprune.load_pruned(classifier(), wrong)
    with pytest.raises(UsageError, match="policy must be a path, but got"):
        autoprune.apply_policy(classifier(), wrong)


def test_swapped_arguments_and_images_of_another_kind(demo: autoprune.Run, tmp_path: Path) -> None:
    swapped: Any = (str(demo.path), classifier())
    for call in (autoprune.load_pruned, autoprune.apply_policy):
        with pytest.raises(UsageError, match=r"model, must be a torch\.nn\.Module, but is a str"):
            call(*swapped)
    with pytest.raises(ModelError, match=r"\(1, 1, 8, 8\).* layer '0' takes 3 channels") as caught:
        data = dataset(shape=(1, 8, 8))
        autoprune.search(classifier(), data=data, output=tmp_path / "run", **TINY)
    assert "\n" not in str(caught.value)


class Broken(Dataset[tuple[Tensor, int]]):
    """Images, the last with a label that there is no class for."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(3, 8, 8), -1 if index == 29 else 0


def test_a_damaged_test_split_costs_no_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"train": dataset(), "test": Broken()}
    run = autoprune.search(classifier(), data=data, output=tmp_path / "run", progress=True, **TINY)
    assert "the test split cannot be scored: label -1 is outside" in capsys.readouterr().err
    assert run.result["score"]["split"] == "selection" and run.result["score"]["kl"] > 0
    autoprune.load_pruned(classifier(), run.path)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda model: {}["top5"], r"evaluate\(model\) raised KeyError: 'top5'"),
        (lambda model: None, r"evaluate\(model\) must return a number, but it returned None"),
        (lambda model: float("nan"), "finite number for the dense network, but it returned nan"),
    ],
)
def test_a_score_of_ones_own_that_is_none(score: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises((EvaluateError, UsageError), match=message):
        autoprune.search(
            classifier(), data=dataset(), evaluate=score, output=tmp_path / "run", **TINY
        )
    assert not (tmp_path / "run").exists()


def test_progress_is_printed_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (False, True):
        output = tmp_path / f"{progress}"
        autoprune.search(classifier(), data=dataset(), output=output, progress=progress, **TINY)
        found = capsys.readouterr()
        assert found.out == "" and ("search: 1 of 1, best reward" in found.err) == progress


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="outside the network's 4 classes"):
        autoprune.search(classifier(), data=dataset(classes=9), output=tmp_path / "run", **TINY)

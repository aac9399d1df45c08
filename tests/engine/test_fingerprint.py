"""What searches must agree in before they share trials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoprune.core.plugins import load_object
from autoprune.engine.evaluators import RepairKind
from autoprune.engine.fingerprint import Fingerprint, other_option, study_name
from autoprune.engine.own_code import check_code, digest_of_code
from autoprune.errors import UsageError
from autoprune.evaluation.reward import NamedReward, find_reward
from autoprune.options.search import SearchConfig

QUICK = RepairKind.QUICK.value


@dataclass(frozen=True)
class Search:
    evaluate: Any = None
    distance: Any = None
    reward: NamedReward = find_reward("kl")  # noqa: RUF009, it is frozen
    config: SearchConfig = SearchConfig("flops=0.5")  # noqa: RUF009


def written(folder: Path, body: str) -> Any:
    folder.mkdir()
    (folder / "scores.py").write_text(f"def score(model):\n    return {body}\n")
    return load_object(f"{folder}/scores.py:score", "evaluate")


def test_code_is_compared_by_its_contents(tmp_path: Path) -> None:
    one, same, other = (
        digest_of_code(Search(evaluate=written(tmp_path / name, body)))
        for name, body in (("a", "1.0"), ("b", "1.0"), ("c", "2.0"))
    )
    assert one == same != other and one is not None
    assert digest_of_code(Search()) not in (one, other, None)


@pytest.mark.parametrize("option", ["evaluate", "distance", "reward"])
def test_code_from_no_file_is_refused(option: str) -> None:
    names: dict[str, Any] = {}
    exec("def nowhere(*given): return 1.0", names)
    one = names["nowhere"]
    search = Search(**{option: NamedReward("mine", one) if option == "reward" else one})
    assert digest_of_code(search) is None
    with pytest.raises(UsageError, match=f"{option} .*nowhere comes from no file"):
        check_code(search)


@pytest.mark.parametrize(
    ("own", "theirs", "found"),
    [
        ((QUICK, 600), (QUICK, 900), None),
        ((QUICK, 300), (QUICK, 900), "repair_samples=500 there, and repair_samples=300 here"),
        (("one-shot", 10), ("one-shot", 900), None),
        (("one-shot", 10), (QUICK, 10), f"judge='{QUICK}' there, and judge='one-shot' here"),
        ((None, None), (QUICK, 900), None),
    ],
)
def test_free_memory_matters_where_it_decides(own: Any, theirs: Any, found: str | None) -> None:
    mine, others = (
        dict(zip(("judge", "repair_samples"), one, strict=True)) for one in (own, theirs)
    )
    assert other_option(mine, others) == found


def test_another_search_evaluator_is_another_study() -> None:
    def name(repair: RepairKind, samples: int, code: str | None = "c") -> str:
        quick = SimpleNamespace(samples=range(samples))
        evaluators: Any = SimpleNamespace(
            search_repair=repair, builder=SimpleNamespace(quick_repair=quick)
        )
        return study_name(Fingerprint("a", "b", code), {}, evaluators)

    kinds = {
        name(RepairKind.QUICK, 500),
        name(RepairKind.ONE_SHOT, 500),
        name(RepairKind.QUICK, 300),
        name(RepairKind.QUICK, 500, "d"),
    }
    assert len(kinds) == 4 and name(RepairKind.QUICK, 500) in kinds

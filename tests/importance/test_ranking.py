"""Criteria by name, what they need, and what users bring."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune import importance
from autoprune.errors import DataError, ModelError, UsageError
from autoprune.importance import Importance, Ranking, make_importance, rank_groups

INPUTS = torch.randn(8, 3)


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


class Given(Importance):
    """Says what it is told to say."""

    def __init__(self, ranking: Any = None) -> None:
        self.ranking = ranking

    def rank(self, group: Any, evidence: Any) -> Ranking:
        return self.ranking


def test_an_order_alone_gets_the_errors_of_its_refit(evidence_of: Any) -> None:
    evidence = evidence_of(model(), torch.randn(200, 3))
    (obs,) = rank_groups(make_importance("obs"), evidence)
    (same,) = rank_groups(Given(Ranking(obs.order)), evidence)
    assert same.errors == pytest.approx(obs.errors)
    (reverse,) = rank_groups(Given(Ranking(obs.order[::-1])), evidence)
    assert reverse.errors is not None and obs.errors is not None
    assert sum(reverse.errors) > sum(obs.errors)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Set the number of PyTorch threads for the rest of a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def deep() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(70, 70), nn.ReLU()) for _ in range(3)]
    return nn.Sequential(*layers, nn.Linear(70, 2))


def test_rankings_do_not_depend_on_the_number_of_threads(
    evidence_of: Any, set_threads: Callable[[int], None]
) -> None:
    evidence, told = evidence_of(deep(), torch.randn(200, 70)), list[tuple[int, int]]()
    set_threads(1)
    expected = rank_groups(make_importance("obs"), evidence)
    set_threads(3)
    found = rank_groups(make_importance("obs"), evidence, lambda *done: told.append(done))
    assert found == expected
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert torch.get_num_threads() == 3


def test_a_custom_criterion_runs_in_the_callers_thread(
    evidence_of: Any, set_threads: Callable[[int], None]
) -> None:
    seen = set()

    class Noting(Importance):
        def rank(self, group: Any, evidence: Any) -> Ranking:
            seen.add((threading.current_thread(), torch.get_num_threads()))
            return Ranking(tuple(range(group.size)), errors=(0.0,) * (group.size + 1))

    set_threads(2)
    rank_groups(Noting(), evidence_of(deep(), torch.randn(100, 70)))
    assert seen == {(threading.main_thread(), 2)}


@pytest.mark.parametrize(
    ("ranking", "wrong"),
    [
        (Ranking((0, 1, 2)), "no order of the 4 units"),
        (Ranking((0, 1, 2, 2)), "no order of the 4 units"),
        ((0, 1, 2, 3), "no order of the 4 units"),
        (Ranking((0, 1, 2, 3), (1.0, 0.0)), "no 5 finite errors"),
        (Ranking((0, 1, 2, 3), scores=(1.0, float("nan"), 0.0, 0.0)), "no 4 finite scores"),
    ],
)
def test_what_is_no_ranking_is_refused(ranking: Any, wrong: str, evidence_of: Any) -> None:
    with pytest.raises(UsageError, match=f'the importance "user\'s own" gives {wrong}'):
        rank_groups(Given(ranking), evidence_of(model(), INPUTS))


def test_a_criterion_that_fails_is_one_line(evidence_of: Any) -> None:
    class Failing(Given):
        name = "mine"

        def rank(self, group: Any, evidence: Any) -> Ranking:
            raise KeyError("no such layer")

    with pytest.raises(UsageError, match="'mine' fails on group '0': KeyError: 'no such"):
        rank_groups(Failing(), evidence_of(model(), INPUTS))


@pytest.mark.parametrize("name", ["taylor", "tv_separation"])
@pytest.mark.parametrize("labels", [None, torch.randn(8), torch.zeros(8, 2, dtype=torch.int64)])
def test_labels_are_needed(name: str, labels: Any, evidence_of: Any) -> None:
    with pytest.raises(UsageError, match=f"'{name}' needs labels, but the training data has no"):
        rank_groups(make_importance(name), evidence_of(model(), INPUTS, labels))


def test_labels_and_outputs_must_fit_the_loss(evidence_of: Any, net: Any) -> None:
    labels = torch.full((8,), 5)
    with pytest.raises(DataError, match="label 5 is outside"):
        rank_groups(make_importance("taylor"), evidence_of(model(), INPUTS, labels))
    pair = net(lambda m, x: (m.a(x), x), a=model())
    with pytest.raises(ModelError, match="choose a way without gradients"):
        rank_groups(make_importance("taylor"), evidence_of(pair, INPUTS, labels))


# ------------------------------------------------------------------------------------ users' own

FILE = """
from autoprune.importance import Importance, Ranking

class Backwards(Importance):
    name = "backwards"
    needs = "nothing"

    def rank(self, group, evidence):
        return Ranking(tuple(reversed(range(group.size))))

class Broken(Importance):
    def __init__(self):
        raise RuntimeError("no licence")

    def rank(self, group, evidence):
        ...

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(FILE))
    return path


def test_a_class_in_a_file(file: Path, evidence_of: Any) -> None:
    (ranking,) = rank_groups(make_importance(f"{file}:Backwards"), evidence_of(model(), INPUTS))
    assert ranking.order == (3, 2, 1, 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Backward", "did you mean 'Backwards'"),
        ("Broken", "no licence"),
        ("number", "gives an int"),
    ],
)
def test_mistakes_in_a_file(name: str, message: str, file: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make_importance(f"{file}:{name}")
    assert "\n" not in str(caught.value)


def test_an_installed_criterion(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("given", f"{__name__}:Given", importance.KIND.group),
        EntryPoint("gone", "no_such_module_here:Given", importance.KIND.group),
        EntryPoint("l1", f"{__name__}:Given", importance.KIND.group),
    ]

    def installed(group: str) -> list[EntryPoint]:
        return [point for point in points if point.group == group]

    monkeypatch.setattr("autoprune.core.plugins.entry_points", installed)
    assert isinstance(make_importance("given"), Given)
    assert not isinstance(make_importance("l1"), Given)
    with pytest.raises(UsageError, match="did you mean 'given'"):
        make_importance("givn")
    with pytest.raises(UsageError, match=r"'gone', entry point .*no module named 'no_such"):
        make_importance("gone")

"""The choice of the winner by evaluators that know the answer."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from autoprune.core.policy import Widths
from autoprune.engine.evaluators import RepairKind
from autoprune.engine.executors import LocalExecutor
from autoprune.engine.finalists import make_shortlist, select_winner
from autoprune.engine.limits import FinalistLimits, StageLimits
from autoprune.errors import ModelError
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.study.trial import Candidate, Trial

ONE_SHOT, QUICK, SEQUENTIAL = RepairKind.ONE_SHOT, RepairKind.QUICK, RepairKind.SEQUENTIAL
LIMITS = FinalistLimits()


def measured(widths: Widths, kl: float) -> Measurement:
    return Measurement(widths, ("a",), Scores(kl=kl), Scores(kl=0.0), {}, {}, {})


@dataclass
class Known:
    """An evaluator that builds nothing and knows every KL; None fails."""

    kl: Mapping[int, float | None]
    built: list[int] = field(default_factory=list)

    def build(self, widths: Widths) -> tuple[nn.Module, Measurement]:
        self.built.append(widths[0])
        kl = self.kl[widths[0]]
        if kl is None:
            raise MemoryError("no memory")
        return nn.Identity(), measured(widths, kl)

    def measure_network(self, network: nn.Module, widths: Widths) -> Measurement:
        return measured(widths, 100.0 + widths[0])


def value(measurement: Measurement) -> float:
    return -(measurement.scores.kl or 0.0)


def play(
    finalists: Mapping[RepairKind, Known],
    selection: Mapping[RepairKind, Known] | None = None,
    trials: int = 3,
) -> Any:
    asked = [Trial(Candidate((w,)), value=0.0) for w in range(1, trials + 1)]
    forwards = {ONE_SHOT: 10, QUICK: 15, SEQUENTIAL: 20}
    evaluators = SimpleNamespace(
        search_repair=next(iter(finalists)),
        finalists=finalists,
        selection=selection or finalists,
        on_mixed_images=selection is not None,
        finalist_forwards=forwards.__getitem__,
    )
    context: Any = SimpleNamespace(reward=value, step=ignored, limits=StageLimits())
    return lambda deadline=math.inf: select_winner(
        context, LocalExecutor(evaluators), asked, deadline
    )


def ignored(stage: str) -> Any:
    return lambda done, total: None


def test_only_the_first_is_repaired_in_every_way() -> None:
    quick, slow = Known({1: 0.5}), Known({1: 0.4, 2: 0.6, 3: 0.3})
    finalist = play({ONE_SHOT: quick, SEQUENTIAL: slow})()
    assert (quick.built, slow.built) == ([1], [1, 2, 3])
    assert finalist.forwards == (10, 20, 20, 20)
    assert (finalist.measurement.widths, finalist.repair) == ((3,), SEQUENTIAL)
    assert finalist.measurement.scores.kl == 0.3


def test_who_fails_drops_out_and_decides_nothing() -> None:
    quick, slow = Known({1: None, 2: 0.2, 3: 0.1}), Known({1: None, 2: 0.4})
    finalist = play({ONE_SHOT: quick, SEQUENTIAL: slow})()
    assert (quick.built, slow.built) == ([1, 2, 3], [1, 2])
    assert (finalist.measurement.widths, finalist.repair) == ((3,), ONE_SHOT)
    nobody = {kind: Known(dict.fromkeys((1, 2, 3))) for kind in (ONE_SHOT, SEQUENTIAL)}
    with pytest.raises(ModelError, match=r"every finalist failed .* \(MemoryError: no memory\)"):
        play(nobody)()


def test_the_winner_is_reported_on_the_selection_images_alone() -> None:
    finalists = {SEQUENTIAL: Known({1: 0.2, 2: 0.1, 3: 0.3})}
    finalist = play(finalists, {SEQUENTIAL: Known({})})()
    assert finalist.measurement == measured((2,), 102.0)
    assert finalist.forwards == (20, 20, 20, finalist.measurement.scores.samples)


def test_none_is_begun_after_the_deadline_once_there_is_one() -> None:
    quick, slow = Known({1: None}), Known({1: 0.4, 2: 0.1})
    finalist = play({ONE_SHOT: quick, SEQUENTIAL: slow})(time.monotonic() - 1)
    assert (quick.built, slow.built) == ([1], [1]) and finalist.measurement.widths == (1,)


def test_the_best_of_many_after_a_quick_repair_are_the_finalists() -> None:
    many = LIMITS.unscreened + 3
    own = Known(dict.fromkeys(range(1, many + 1), 0.9))
    quick = Known({w: 0.8 - 0.01 * w for w in range(1, many + 1)})
    quick.kl[4] = None  # fails, and drops out
    slow = Known({many: 0.5, many - 1: 0.3, many - 2: 0.4, many - 3: 0.6})
    finalist = play({ONE_SHOT: own, SEQUENTIAL: slow, QUICK: quick}, trials=many)()
    assert (own.built, quick.built) == ([1], list(range(1, many + 1)))
    assert slow.built == list(range(many, many - LIMITS.prescreened, -1))
    assert (finalist.measurement.widths, finalist.repair) == ((many - 1,), SEQUENTIAL)
    assert finalist.forwards == (10, *[15] * many, *[20] * LIMITS.prescreened)


def test_a_quick_repair_that_is_no_better_than_the_searchs_prescreens_nothing() -> None:
    own, quick, slow = (Known(dict.fromkeys(range(1, 12), kl)) for kl in (0.5, 0.5, 0.6))
    finalist = play({ONE_SHOT: own, SEQUENTIAL: slow, QUICK: quick}, trials=11)()
    assert (quick.built, slow.built) == ([1], [1])
    assert own.built == list(range(1, LIMITS.unscreened + 1))
    assert finalist.repair is ONE_SHOT


def test_finalists_keep_the_quick_repair_where_the_thorough_one_is_worse() -> None:
    own, slow = (Known(dict.fromkeys(range(1, 12), kl)) for kl in (0.5, 0.6))
    quick = Known({w: 0.4 + 0.001 * w for w in range(1, 12)})
    finalist = play({ONE_SHOT: own, SEQUENTIAL: slow, QUICK: quick}, trials=11)()
    assert (own.built, quick.built, slow.built) == ([1], list(range(1, 12)), [1])
    assert (finalist.measurement.widths, finalist.repair) == ((1,), QUICK)


def test_a_first_trial_that_cannot_be_built_does_not_end_prescreening() -> None:
    own, slow = Known({1: None}), Known(dict.fromkeys(range(1, 12), 0.3))
    quick = Known({w: 0.9 - 0.01 * w for w in range(1, 12)})
    play({ONE_SHOT: own, SEQUENTIAL: slow, QUICK: quick}, trials=11)()
    assert slow.built == list(range(11, 11 - LIMITS.prescreened, -1))


def test_few_trials_need_no_prescreening() -> None:
    own, quick, slow = (Known(dict.fromkeys(range(1, 5), kl)) for kl in (0.5, 0.4, 0.3))
    play({ONE_SHOT: own, SEQUENTIAL: slow, QUICK: quick}, trials=LIMITS.prescreened)()
    assert quick.built == [] and len(slow.built) == LIMITS.prescreened


def test_prescreening_takes_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    own, slow = (Known(dict.fromkeys(range(1, 12), kl)) for kl in (0.5, 0.3))
    quick = Known(dict.fromkeys(range(1, 12), 0.4))
    # Half over after three of eleven, wholly after the first thorough repair.
    now = itertools.chain([0.0] * 4, [9.0] * 3, itertools.repeat(11.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    finalist = play({ONE_SHOT: own, SEQUENTIAL: slow, QUICK: quick}, trials=11)(10.0)
    assert (own.built, quick.built, slow.built) == ([1], [1, 2, 3], [1])
    assert (finalist.measurement.widths, finalist.repair) == ((1,), SEQUENTIAL)


def test_a_search_that_repairs_as_prescreening_does_is_repeated_on_fresh_images() -> None:
    quick = Known({w: 0.4 + 0.001 * w for w in range(1, 12)})
    slow = Known(dict.fromkeys(range(1, 12), 0.3))
    play({QUICK: quick, SEQUENTIAL: slow}, trials=11)()
    assert quick.built[:11] == list(range(1, 12)) and slow.built == [1, 2, 3, 4]


SPACE = SearchSpace(("a", "b"), sizes=(200, 200), lowest=(1, 0), fewest=(1, 8))


def listed(widths: list[Widths], repair: RepairKind = QUICK, always: Any = ()) -> list[Widths]:
    trials = [Trial(Candidate(w), value=-float(n)) for n, w in enumerate(widths)]
    evaluators = SimpleNamespace(search_repair=repair)
    context: Any = SimpleNamespace(limits=StageLimits())
    chosen = make_shortlist(context, evaluators, SPACE, trials, always)  # type: ignore[arg-type]
    return [trial.candidate.widths for trial in chosen]


def test_trials_that_were_repaired_as_a_whole_differ_on_the_shortlist() -> None:
    near = [(100, 100), (101, 100), (50, 100), (100, 101), (50, 99)]
    far = [(100, w) for w in range(10, 80, 5)]
    chosen = listed(near + far)
    assert chosen == [(100, 100), (50, 100), *far[: LIMITS.diverse - 2]]
    assert listed(near) == [(100, 100), (50, 100), (101, 100), (100, 101), (50, 99)]


def test_a_network_without_a_branch_differs_from_one_that_has_little_of_it() -> None:
    widths = [(100, 0), (101, 0), (100, 8), (50, 0)]
    assert listed(widths) == [(100, 0), (100, 8), (50, 0), (101, 0)]


def test_the_uniform_widths_are_on_the_shortlist_wherever_they_stand() -> None:
    widths = [(100, w) for w in range(10, 95, 5)]
    assert listed(widths, always={(100, 90)})[LIMITS.diverse :] == [(100, 90)]
    assert len(listed(widths, always={(1, 1)})) == LIMITS.diverse


def test_many_are_on_the_shortlist_where_candidates_were_repaired_in_one_shot() -> None:
    widths = [(100, w) for w in range(1, 60)]
    assert listed(widths, ONE_SHOT) == widths[: LIMITS.shortlist]

"""The run-off on evaluators that know the answer."""

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
from autoprune.core.progress import Progress
from autoprune.engine.evaluators import QUICK
from autoprune.engine.finalists import CONTENDERS, FEWER, SIFTED, UNSIFTED, run_off, shortlist
from autoprune.errors import ModelError
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.study.trial import Candidate, Trial


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

    def judge(self, network: nn.Module, widths: Widths) -> Measurement:
        return measured(widths, 100.0 + widths[0])


def value(measurement: Measurement) -> float:
    return -(measurement.scores.kl or 0.0)


def play(
    contests: Mapping[str, Known], finals: Mapping[str, Known] | None = None, trials: int = 3
) -> Any:
    asked = [Trial(Candidate((w,)), value=0.0) for w in range(1, trials + 1)]
    forwards = {"one-shot": 10, QUICK: 15, "sequential": 20}
    bench = SimpleNamespace(contests=contests, finals=finals or contests, final_forwards=forwards)
    return lambda deadline=math.inf: run_off(asked, bench, value, Progress(), deadline)  # type: ignore[arg-type]


def test_only_the_first_is_repaired_in_every_way() -> None:
    quick, slow = Known({1: 0.5}), Known({1: 0.4, 2: 0.6, 3: 0.3})
    finalist = play({"one-shot": quick, "sequential": slow})()
    assert (quick.built, slow.built) == ([1], [1, 2, 3])
    assert finalist.forwards == (10, 20, 20, 20)
    assert (finalist.measurement.widths, finalist.reconstruction) == ((3,), "sequential")
    assert finalist.measurement.scores.kl == 0.3


def test_who_fails_drops_out_and_decides_nothing() -> None:
    quick, slow = Known({1: None, 2: 0.2, 3: 0.1}), Known({1: None, 2: 0.4})
    finalist = play({"one-shot": quick, "sequential": slow})()
    assert (quick.built, slow.built) == ([1, 2, 3], [1, 2])
    assert (finalist.measurement.widths, finalist.reconstruction) == ((3,), "one-shot")
    nobody = {kind: Known(dict.fromkeys((1, 2, 3))) for kind in ("one-shot", "sequential")}
    with pytest.raises(ModelError, match=r"every finalist failed .* MemoryError: no memory"):
        play(nobody)()


def test_the_winner_is_reported_on_the_selection_images_alone() -> None:
    contests = {"sequential": Known({1: 0.2, 2: 0.1, 3: 0.3})}
    finalist = play(contests, {"sequential": Known({})})()
    assert finalist.measurement == measured((2,), 102.0)
    assert finalist.forwards == (20, 20, 20, finalist.measurement.scores.samples)


def test_none_is_begun_after_the_deadline_once_there_is_one() -> None:
    quick, slow = Known({1: None}), Known({1: 0.4, 2: 0.1})
    finalist = play({"one-shot": quick, "sequential": slow})(time.monotonic() - 1)
    assert (quick.built, slow.built) == ([1], [1]) and finalist.measurement.widths == (1,)


def test_the_best_of_many_after_a_quick_repair_are_the_finalists() -> None:
    many = UNSIFTED + 3
    own = Known(dict.fromkeys(range(1, many + 1), 0.9))
    quick = Known({w: 0.8 - 0.01 * w for w in range(1, many + 1)})
    quick.kl[4] = None  # fails, and drops out
    slow = Known({many: 0.5, many - 1: 0.3, many - 2: 0.4, many - 3: 0.6})
    finalist = play({"one-shot": own, "sequential": slow, QUICK: quick}, trials=many)()
    assert (own.built, quick.built) == ([1], list(range(1, many + 1)))
    assert slow.built == list(range(many, many - SIFTED, -1))
    assert (finalist.measurement.widths, finalist.reconstruction) == ((many - 1,), "sequential")
    assert finalist.forwards == (10, *[15] * many, *[20] * SIFTED)


def test_a_quick_repair_that_is_no_better_than_the_judges_sifts_nothing() -> None:
    own, quick, slow = (Known(dict.fromkeys(range(1, 12), kl)) for kl in (0.5, 0.5, 0.6))
    finalist = play({"one-shot": own, "sequential": slow, QUICK: quick}, trials=11)()
    assert (quick.built, slow.built) == ([1], [1])
    assert own.built == list(range(1, UNSIFTED + 1))
    assert finalist.reconstruction == "one-shot"


def test_finalists_keep_the_quick_repair_where_the_thorough_one_is_worse() -> None:
    own, slow = (Known(dict.fromkeys(range(1, 12), kl)) for kl in (0.5, 0.6))
    quick = Known({w: 0.4 + 0.001 * w for w in range(1, 12)})
    finalist = play({"one-shot": own, "sequential": slow, QUICK: quick}, trials=11)()
    assert (own.built, quick.built, slow.built) == ([1], list(range(1, 12)), [1])
    assert (finalist.measurement.widths, finalist.reconstruction) == ((1,), QUICK)


def test_a_first_trial_that_the_judge_cannot_build_does_not_end_sifting() -> None:
    own, slow = Known({1: None}), Known(dict.fromkeys(range(1, 12), 0.3))
    quick = Known({w: 0.9 - 0.01 * w for w in range(1, 12)})
    play({"one-shot": own, "sequential": slow, QUICK: quick}, trials=11)()
    assert slow.built == list(range(11, 11 - SIFTED, -1))


def test_few_trials_need_no_sifting() -> None:
    own, quick, slow = (Known(dict.fromkeys(range(1, 5), kl)) for kl in (0.5, 0.4, 0.3))
    play({"one-shot": own, "sequential": slow, QUICK: quick}, trials=SIFTED)()
    assert quick.built == [] and len(slow.built) == SIFTED


def test_sifting_takes_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    own, slow = (Known(dict.fromkeys(range(1, 12), kl)) for kl in (0.5, 0.3))
    quick = Known(dict.fromkeys(range(1, 12), 0.4))
    # Half over after three of eleven, wholly after the first thorough repair.
    now = itertools.chain([0.0] * 4, [9.0] * 3, itertools.repeat(11.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    finalist = play({"one-shot": own, "sequential": slow, QUICK: quick}, trials=11)(10.0)
    assert (own.built, quick.built, slow.built) == ([1], [1, 2, 3], [1])
    assert (finalist.measurement.widths, finalist.reconstruction) == ((1,), "sequential")


def test_a_judge_that_repairs_as_finalists_are_sifted_does_so_again_on_fresh_images() -> None:
    quick = Known({w: 0.4 + 0.001 * w for w in range(1, 12)})
    slow = Known(dict.fromkeys(range(1, 12), 0.3))
    play({QUICK: quick, "sequential": slow}, trials=11)()
    assert quick.built[:11] == list(range(1, 12)) and slow.built == [1, 2, 3, 4]


def listed(widths: list[Widths], judge: str = QUICK, always: Any = ()) -> list[Widths]:
    trials = [Trial(Candidate(w), value=-float(n)) for n, w in enumerate(widths)]
    bench = SimpleNamespace(judge_name=judge)
    return [t.candidate.widths for t in shortlist(trials, bench, always)]  # type: ignore[arg-type]


def test_contenders_that_were_repaired_as_a_whole_are_unlike_each_other() -> None:
    near = [(100, 100), (101, 100), (50, 100), (100, 101), (50, 99)]
    far = [(100, w) for w in range(10, 80, 5)]
    chosen = listed(near + far)
    assert chosen == [(100, 100), (50, 100), *far[: FEWER - 2]]
    assert listed(near) == [(100, 100), (50, 100), (101, 100), (100, 101), (50, 99)]


def test_the_uniform_widths_are_contenders_wherever_they_stand() -> None:
    widths = [(100, w) for w in range(10, 95, 5)]
    assert listed(widths, always={(100, 90)})[FEWER:] == [(100, 90)]
    assert len(listed(widths, always={(1, 1)})) == FEWER


def test_many_are_contenders_where_candidates_were_repaired_in_one_shot() -> None:
    widths = [(100, w) for w in range(1, 60)]
    assert listed(widths, "one-shot") == widths[:CONTENDERS]

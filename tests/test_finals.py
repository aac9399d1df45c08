"""The run-off on evaluators that know the answer."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from autoprune.errors import ModelError
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.finals import run_off
from autoprune.policy import Widths
from autoprune.progress import Progress
from autoprune.strategy import Candidate, Trial


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


def play(contests: Mapping[str, Known], finals: Mapping[str, Known] | None = None) -> Any:
    trials = [Trial(Candidate((w,)), value=0.0) for w in (1, 2, 3)]
    forwards = {"one-shot": 10, "sequential": 20}
    bench = SimpleNamespace(contests=contests, finals=finals or contests, final_forwards=forwards)
    return lambda deadline=math.inf: run_off(trials, bench, value, Progress(), deadline)  # type: ignore[arg-type]


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

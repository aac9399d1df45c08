"""The contract of a search strategy, as tests."""

from __future__ import annotations

import pytest

from autoprune.agents.base import SearchProblem, Strategy
from autoprune.core.policy import Widths
from autoprune.testing.toy_problems import PROBLEMS, Setting, Toy, make_toy, play

ROUNDS = 12


class StrategyContract:
    """Tests that every strategy passes; override `make`.

    Attributes:
        has_one_answer: whether it proposes a single candidate, by a rule.
        may_repeat: whether it may propose the same candidate twice.
        is_random: whether other seeds give other candidates.
    """

    has_one_answer: bool = False
    may_repeat: bool = False
    is_random: bool = False

    def make(self) -> Strategy:
        """Return a new strategy, not started."""
        raise NotImplementedError

    def started(self, problem: SearchProblem) -> Strategy:
        """Return a new strategy that works on a problem."""
        return self.make().started(problem)

    def needs_budget(self) -> bool:
        """Return whether it has nothing to choose without a budget."""
        return self.make().needs_budget

    @pytest.fixture(params=PROBLEMS)
    def toy(self, request: pytest.FixtureRequest) -> Toy:
        """A problem of every kind."""
        return PROBLEMS[request.param]()

    def test_candidates_are_allowed_new_and_repeatable(self, toy: Toy) -> None:
        """Only probes may exceed the budget, and none comes first; a second run is the same.

        A search is resumed by replaying its record, so that the same seed and the same values must
        give the same candidates.
        """
        problem = toy.problem
        proposed = [t.candidate for t in play(self.started(problem), toy.value, ROUNDS)]
        assert proposed[0].kind == "candidate"  # there is always a best candidate so far
        for candidate in proposed:
            assert all(type(width) is int for width in candidate.widths)
            assert problem.space.contains(candidate.widths)
            assert candidate.kind == "probe" or problem.projection.fits(candidate.widths)
        assert self.may_repeat or len(set(proposed)) == len(proposed)
        again = [t.candidate for t in play(self.started(problem), toy.value, ROUNDS)]
        assert again == proposed

    def test_probes_leave_trials_for_candidates(self, toy: Toy) -> None:
        """Within its trials a strategy proposes a candidate that can win."""
        strategy = self.started(toy.problem)
        for _ in range(toy.problem.trials):
            (trial,) = play(strategy, toy.value, 1)
            if trial.candidate.kind == "candidate":
                return
        pytest.fail("no candidate that can win was proposed")

    @pytest.mark.parametrize("failing", ["some", "all", "the first"])
    def test_failed_trials_are_survived(self, failing: str) -> None:
        """A search goes on after evaluations that fail."""
        toy = make_toy([12, 7, 9])
        seen: list[Widths] = []

        def answer(widths: Widths) -> float | None:
            seen.append(widths)
            fails = {"some": len(seen) % 3 == 0, "all": True, "the first": len(seen) == 1}[failing]
            return None if fails else toy.value(widths)

        trials = play(self.started(toy.problem), answer, ROUNDS)
        assert len(trials) == (1 if self.has_one_answer else ROUNDS)

    def test_other_seeds_other_candidates(self) -> None:
        """The seed of the problem is used."""
        if not self.is_random:
            pytest.skip("not a random strategy")
        proposed = []
        for seed in range(2):
            toy = make_toy([12, 7, 9, 16], Setting(seed=seed))
            trials = play(self.started(toy.problem), toy.value, 8)
            proposed.append([trial.candidate.widths for trial in trials])
        assert proposed[0] != proposed[1]

    @pytest.mark.parametrize("scale", [0.0, 1e12])
    def test_values_of_any_size_are_accepted(self, scale: float) -> None:
        """Values may all be equal, or huge."""
        toy = make_toy([12, 7, 9])
        assert play(self.started(toy.problem), lambda widths: scale * toy.value(widths), ROUNDS)

    def test_without_a_budget(self) -> None:
        """Where the value includes costs, the best is neither the whole network nor the least."""
        if self.needs_budget():
            pytest.skip("needs a budget")
        toy = make_toy([12, 7, 9], Setting(bounded=False))
        problem = toy.problem
        cost, dense = problem.costs["flops"], problem.costs["flops"].total(problem.space.sizes)

        def value(widths: Widths) -> float:
            return float(toy.value(widths) - 4 * cost.total(widths) / dense)

        trials = play(self.started(problem), value, 15)
        proposed = {trial.candidate.widths for trial in trials}
        assert all(problem.space.contains(widths) for widths in proposed) and len(proposed) > 10
        reached = max(trial.value for trial in trials if trial.value is not None)
        assert reached > max(value(problem.space.sizes), value(problem.space.lowest))

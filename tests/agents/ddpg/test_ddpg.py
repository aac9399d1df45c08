"""The DDPG agent: exploration, replay, files, and what it finds."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from autoprune.agents.ddpg.agent import DdpgStrategy
from autoprune.agents.ddpg.config import DdpgConfig
from autoprune.agents.ddpg.exploration import TruncatedNormal
from autoprune.agents.ddpg.networks import HIGH, LOW, PLANNED
from autoprune.agents.ddpg.storage import load_agent
from autoprune.agents.registry import check_strategy
from autoprune.agents.tools.warm_starts import warm_starts
from autoprune.core.policy import Widths
from autoprune.errors import RunError, UsageError
from autoprune.search_spaces.episode import FEATURES, Step
from autoprune.search_spaces.greedy import least_loss
from autoprune.study.trial import Candidate, Trial

TRUST = DdpgConfig().trust
# For what holds however much is learnt of an episode.
FEW = DdpgConfig(updates=5)


def test_exploration_is_normal_between_its_bounds() -> None:
    noise = TruncatedNormal(0.2, 0.02, 100, seed=0)
    drawn = np.array([noise.draw(0.5, 0.4, 1.0, 0.2) for _ in range(4000)])
    assert drawn.min() >= 0.4 and drawn.max() <= 1.0
    # Mean of N(0.5, 0.2²) cut off at -0.5 σ and 2.5 σ: 0.5 + 0.2 (φ(0.5) - φ(2.5)) / 0.685.
    assert drawn.mean() == pytest.approx(0.5976, abs=0.01)
    assert (drawn == 0.4).mean() < 0.01  # a clipped normal would pile up there
    assert noise.draw(0.9, 0.3, 0.3, 0.1) == 0.3


def test_noise_lives_until_the_last_trial() -> None:
    noise = TruncatedNormal(0.2, 0.02, trials=100, seed=0)
    spreads = [noise.spread(trial) for trial in range(101)]
    assert spreads[0] == pytest.approx(0.2) and spreads[100] == pytest.approx(0.02)
    assert all(a > b for a, b in itertools.pairwise(spreads))
    assert spreads[50] == pytest.approx((0.2 * 0.02) ** 0.5)


def _steps(*ratios: float) -> list[Step]:
    return [Step(np.full(len(FEATURES), ratio), ratio) for ratio in ratios]


@pytest.fixture
def model(make_toy: Any) -> Any:
    return DdpgStrategy().started(make_toy([6, 6]).problem)._model


def test_replay_holds_what_was_executed_beside_a_moving_baseline(model: Any) -> None:
    replay = model.replay_buffer
    replay.add_episode(_steps(0.25, 0.75), -1.0)
    replay.add_episode(_steps(0.5, 1.0), -3.0)
    assert replay.actions[:4, 0, 0].tolist() == [-0.5, 0.5, 0.0, 1.0]
    batch = replay.sample(200)
    # Baseline -1 moved by 0.05 x -2 to -1.1; the spread is the first deviation, 2.
    assert sorted({round(float(r), 4) for r in batch.rewards}) == [-0.95, 0.05]
    replay.add_episode(_steps(0.1), -1e9)
    assert float(replay.sample(200).rewards.abs().max()) <= 3.0


def test_replay_is_seeded_and_leaves_global_randomness_alone(make_toy: Any) -> None:
    drawn = []
    for junk in (1, 2):
        np.random.seed(junk)
        torch.manual_seed(junk)
        before = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index]
        strategy = DdpgStrategy().started(make_toy([6, 6]).problem)
        after = np.random.get_state()[1], torch.get_rng_state()  # type: ignore[index]
        assert (before[0] == after[0]).all() and torch.equal(before[1], after[1])
        replay = strategy._model.replay_buffer
        replay.add_episode(_steps(*np.linspace(0, 1, 9)), 1.0)
        drawn.append(replay.sample(50).actions)
    assert torch.equal(*drawn)


def test_actions_are_feasible(model: Any) -> None:
    seen = torch.rand(50, len(FEATURES))
    seen[:, LOW], seen[:, HIGH] = 0.3, 0.45
    ratios = (model.actor(seen) + 1) / 2
    assert bool((ratios >= 0.3 - 1e-6).all()) and bool((ratios <= 0.45 + 1e-6).all())


def test_an_agent_goes_on_where_it_was_saved(make_toy: Any, play: Any, tmp_path: Path) -> None:
    first = make_toy([12, 7, 9])
    teacher = DdpgStrategy(FEW).started(first.problem)
    play(teacher, first.value, 10)
    assert teacher.save(tmp_path / "agent")
    assert [p.name for p in (tmp_path / "agent").iterdir()] == ["agent.safetensors"]
    other = make_toy([10, 16, 8, 8])
    for path in (tmp_path, tmp_path / "agent", tmp_path / "agent" / "agent.safetensors"):
        pupil = DdpgStrategy(FEW, agent=str(path)).started(other.problem)
        saved = load_file(tmp_path / "agent" / "agent.safetensors")
        assert all(torch.equal(v, saved[k]) for k, v in pupil._model.policy.state_dict().items())
        critic = teacher._model.critic.state_dict()
        assert all(torch.equal(v, critic[k]) for k, v in pupil._model.critic.state_dict().items())
    # Zero-shot: the first candidate is what the actor itself does, near the plan.
    candidate = pupil.ask()
    assert candidate is not None and candidate.widths == pupil._play(0.0, TRUST)
    play(pupil, other.value, 6)
    pupil.save(tmp_path / "again")
    info, _ = load_agent(tmp_path / "again", FEW.hidden)
    assert info.networks == (3, 4) and info.episodes == 16


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "agent.safetensors").unlink(), "there is no agent in"),
        (lambda f: _write(f, "{"), "cannot read the agent"),
        (lambda f: _write(f, "[]"), "its algorithm is None instead of 'ddpg'"),
        (lambda f: _write(f, None), "cannot read the agent"),
        (lambda f: (f / "agent.safetensors").write_bytes(b"x"), "cannot read the agent"),
        (lambda f: _edit(f, features=["depth"]), "its features is different"),
        (lambda f: _edit(f, hidden=[8]), "its hidden is different"),
        (lambda f: _edit(f, version=99), "its version is 99 instead of 2"),
        (lambda f: _edit(f, episodes="many"), "is damaged"),
        (lambda f: _write(f, _said(f), {"a": torch.ones(1)}), "tensors are others"),
        (
            lambda f: _write(f, _said(f), {k: v * torch.nan for k, v in _tensors(f).items()}),
            "NaN or infinity in",
        ),
    ],
)
def test_agents_that_do_not_fit_are_refused(
    damage: Any, message: str, make_toy: Any, tmp_path: Path
) -> None:
    problem = make_toy([6, 6]).problem
    DdpgStrategy().started(problem).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(RunError, match=message):
        DdpgStrategy(agent=str(tmp_path)).started(problem)


def _edit(folder: Path, **changes: Any) -> None:
    _write(folder, json.dumps({**json.loads(_said(folder)), **changes}))


def _write(folder: Path, said: str | None, tensors: Any = None) -> None:
    header = None if said is None else {"agent": said}
    save_file(tensors or _tensors(folder), folder / "agent.safetensors", header)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = load_file(folder / "agent.safetensors")
    return {name: tensor.clone() for name, tensor in found.items()}


def _said(folder: Path) -> str:
    with safe_open(folder / "agent.safetensors", "pt") as file:
        return str(file.metadata()["agent"])


def test_agents_of_older_versions_are_read(make_toy: Any, taught: str, tmp_path: Path) -> None:
    """What is said of them stands in a file beside the tensors; they are saved as one file."""
    (tmp_path / "agent.json").write_text(_said(Path(taught)))
    save_file(_tensors(Path(taught)), tmp_path / "agent.safetensors")
    pupil = DdpgStrategy(agent=str(tmp_path / "agent.json")).started(make_toy([8, 6]).problem)
    assert pupil.agent_from is not None and pupil.agent_from["episodes"] == 12
    pupil.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["agent.safetensors"]


def test_an_agent_is_never_half_written(
    make_toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = DdpgStrategy().started(make_toy([8, 8]).problem)
    agent.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(tensors: Any, path: Path, besides: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("autoprune.core.files.save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        agent.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_agent_fits_any_network(make_toy: Any, taught: str) -> None:
    pupil = DdpgStrategy(agent=taught).started(make_toy([8, 6, 10, 9, 7]).problem)
    assert pupil.agent_from == {"path": taught, "networks": [4], "episodes": 12}
    assert pupil.ask() is not None


def test_an_agent_that_is_no_use_begins_as_the_best_warm_start(make_toy: Any, taught: str) -> None:
    """Its own candidate comes first, then the warm starts; the best one of all is what it does."""
    for best in range(2):
        pupil = DdpgStrategy(FEW, agent=taught).started(make_toy([16, 12, 10, 14]).problem)
        asked = [pupil.ask() for _ in range(2)]
        assert asked[0] is not None and asked[0].widths == pupil._play(0.0, TRUST)
        for number, candidate in enumerate(asked):
            assert candidate is not None
            pupil._values[candidate.widths] = float(number == best)
        pupil._clone_the_best()
        wanted = asked[best]
        assert wanted is not None
        assert np.abs(np.subtract(pupil._play(0.0), wanted.widths)).max() <= 2


def test_an_idle_actor_keeps_to_the_plan(make_toy: Any) -> None:
    """Its networks correct the plan of least loss: with no correction that is what it does."""
    toy = make_toy([64, 48, 40, 56])
    strategy = DdpgStrategy().started(toy.problem)
    strategy._model.actor.correction = lambda seen: torch.zeros(len(seen), 1)
    planned = least_loss(toy.problem.projection, toy.problem.rankings)
    ratios = toy.problem.space.ratios
    assert ratios(strategy._play(0.0)) == pytest.approx(ratios(planned), abs=0.12)


@pytest.mark.parametrize("way", [-1.0, 1.0])
def test_what_learnt_elsewhere_is_believed_so_far_only(way: float, make_toy: Any) -> None:
    """However wide or narrow the actor wants every group."""
    strategy = DdpgStrategy().started(make_toy([64, 48, 40, 56], keep=0.4).problem)
    strategy._model.actor.correction = lambda seen: torch.full((len(seen), 1), way)
    decided: Widths = ()
    strategy._episode.finish = lambda decided: decided  # type: ignore[method-assign]
    for group, width in enumerate(strategy._play(0.0, TRUST)):
        seen = strategy._episode.observe(decided)
        size = strategy.problem.space.sizes[group]
        ratio, low, high = width / size, seen[LOW], seen[HIGH]
        near = np.clip(seen[PLANNED] * np.exp(way * TRUST), low, high)
        assert abs(ratio - near) <= 0.5 / size + 1e-6
        decided = (*decided, width)
    assert strategy.problem.projection.fits(decided)


@pytest.mark.parametrize("bounded", [True, False])
def test_an_actor_can_be_corrected_wherever_the_plan_is(bounded: bool, make_toy: Any) -> None:
    """Also where it keeps a group whole, as it does without a budget."""
    strategy = DdpgStrategy().started(make_toy([16, 12, 10, 14], bounded=bounded).problem)
    seen = torch.as_tensor(strategy._episode.observe(())[None], dtype=torch.float32)
    for planned in (seen[0, LOW], seen[0, PLANNED], seen[0, HIGH]):
        seen[0, PLANNED] = planned
        for way in (-0.5, 0.5):
            correction = torch.tensor([[way]], requires_grad=True)
            strategy._model.actor.corrected(correction, seen).sum().backward()
            assert correction.grad is not None and float(correction.grad) > 0


def test_what_is_saved_was_taught_the_best_episodes(make_toy: Any, tmp_path: Path) -> None:
    """The actor that searched may have gone anywhere since."""
    toy = make_toy([40, 32, 24, 36])
    teacher = DdpgStrategy().started(toy.problem)
    worse, best = (teacher._play(0.2) for _ in range(2))
    teacher._values = {worse: 0.0, best: 1.0}
    teacher.save(tmp_path)
    pupil = DdpgStrategy(agent=str(tmp_path)).started(toy.problem)
    assert np.abs(np.subtract(pupil._play(0.0), best)).max() <= 2
    assert pupil._play(0.0) != pupil._play(0.0, 0.0)


def test_only_agents_take_an_agent(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="for the strategy 'ddpg' or 'local'; 'random' has none"):
        check_strategy("random", agent="somewhere")
    with pytest.raises(RunError, match="there is no agent in"):
        check_strategy("ddpg", agent=str(tmp_path))


def test_the_same_episodes_whatever_the_global_randomness(make_toy: Any, play: Any) -> None:
    toy = make_toy([6, 6])
    asked = []
    for junk in (0, 1):
        torch.manual_seed(junk)
        trials = play(DdpgStrategy(FEW).started(toy.problem), toy.value, 8)
        asked.append([trial.candidate for trial in trials])
    assert asked[0] == asked[1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_finds_a_known_optimum(seed: int, make_toy: Any, play: Any) -> None:
    """At most 5 % of what uniform lacks is left after 300 episodes, without error curves."""
    toy = make_toy([12, 8, 10, 12], has_errors=False, seed=seed, trials=300)
    best = max(t.value for t in play(DdpgStrategy().started(toy.problem), toy.value, 300))
    uniform = toy.value(toy.problem.projection.project(np.ones(4)))
    optimum = toy.optimum()
    assert (optimum - best) / (optimum - uniform) <= 0.05


def test_episodes_at_once_are_asked_of_one_actor_and_learnt_from_together(make_toy: Any) -> None:
    """The warm starts come first; then the actor stays as it is until all episodes are told."""
    toy = make_toy([16, 12, 10, 14])
    problem = replace(toy.problem, trials=20, at_once=3)
    strategy = DdpgStrategy(FEW, warm_up=0.0).started(problem)
    asked: list[list[Widths]] = []
    for _ in range(4):
        asked.append([])
        actors = []
        awaited = False
        while not awaited:
            candidate = strategy.ask()
            assert candidate is not None
            asked[-1].append(candidate.widths)
            actors.append(_copy(strategy._model.actor))
            awaited = candidate.awaited
        assert all(torch.equal(one[key], actors[0][key]) for one in actors for key in one)
        for widths in asked[-1]:
            strategy.tell(Trial(Candidate(widths), toy.value(widths)))
        after = _copy(strategy._model.actor)
        learnt = any(not torch.equal(after[key], actors[-1][key]) for key in after)
        assert learnt
    assert [len(one) for one in asked[1:]] == [3, 3, 3] and 1 <= len(asked[0]) <= 3
    flat = [widths for one in asked for widths in one]
    assert len(set(flat)) == len(flat)
    assert set(asked[0]) == set(warm_starts(problem))


def _copy(actor: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in actor.state_dict().items()}

"""The DDPG agent: exploration, replay, files, and what it finds."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from autoprune.agents import BUILT_IN, check_strategy
from autoprune.agents.ddpg import agent
from autoprune.agents.ddpg.agent import DdpgStrategy
from autoprune.agents.ddpg.exploration import TruncatedNormal
from autoprune.agents.ddpg.networks import HIGH, LOW
from autoprune.errors import RunError, UsageError
from autoprune.search_spaces.episode import FEATURES, Step


@pytest.fixture
def few_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what holds however much is learnt of an episode."""
    monkeypatch.setattr(agent, "UPDATES", 5)


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
    return DdpgStrategy(make_toy([6, 6]).problem)._model


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
        strategy = DdpgStrategy(make_toy([6, 6]).problem)
        after = np.random.get_state()[1], torch.get_rng_state()  # type: ignore[index]
        assert (before[0] == after[0]).all() and torch.equal(before[1], after[1])
        replay = strategy._model.replay_buffer
        replay.add_episode(_steps(*np.linspace(0, 1, 9)), 1.0)
        drawn.append(replay.sample(50).actions)
    assert torch.equal(*drawn)


def test_actions_lie_within_the_wall(model: Any) -> None:
    seen = torch.rand(50, len(FEATURES))
    seen[:, LOW], seen[:, HIGH] = 0.3, 0.45
    ratios = (model.actor(seen) + 1) / 2
    assert bool((ratios >= 0.3 - 1e-6).all()) and bool((ratios <= 0.45 + 1e-6).all())


@pytest.mark.usefixtures("few_updates")
def test_an_agent_goes_on_where_it_was_saved(make_toy: Any, play: Any, tmp_path: Path) -> None:
    first = make_toy([12, 7, 9])
    teacher = DdpgStrategy(first.problem)
    play(teacher, first.value, 10)
    assert teacher.save(tmp_path / "agent")
    assert sorted(p.name for p in (tmp_path / "agent").iterdir()) == [
        "agent.json",
        "agent.safetensors",
    ]
    other = make_toy([10, 16, 8, 8])
    for path in (tmp_path, tmp_path / "agent", tmp_path / "agent" / "agent.json"):
        pupil = DdpgStrategy(other.problem, agent=str(path))
        wanted = teacher._model.policy.state_dict()
        assert all(torch.equal(v, wanted[k]) for k, v in pupil._model.policy.state_dict().items())
    # Zero-shot: the first candidate is what the actor itself does.
    candidate = pupil.ask()
    assert candidate is not None and candidate.widths == pupil._play(0.0)
    play(pupil, other.value, 6)
    pupil.save(tmp_path / "again")
    info = json.loads((tmp_path / "again" / "agent.json").read_text())
    assert info["networks"] == [3, 4] and info["episodes"] == 16


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "agent.json").unlink(), "there is no agent in"),
        (lambda f: (f / "agent.json").write_text("{"), "cannot read the agent"),
        (lambda f: (f / "agent.json").write_text("[]"), "its algorithm is None instead of 'ddpg'"),
        (lambda f: (f / "agent.safetensors").write_bytes(b"x"), "cannot read the agent"),
        (lambda f: _edit(f, features=["depth"]), "its features is different"),
        (lambda f: _edit(f, hidden=[8]), "its hidden is different"),
        (lambda f: _edit(f, version=99), "its version is 99 instead of 1"),
        (lambda f: _edit(f, episodes="many"), "is damaged"),
        (lambda f: save_file({"a": torch.ones(1)}, f / "agent.safetensors"), "tensors are others"),
        (
            lambda f: save_file(
                {k: v * torch.nan for k, v in load_file(f / "agent.safetensors").items()},
                f / "agent.safetensors",
            ),
            "not finite",
        ),
    ],
)
def test_agents_that_do_not_fit_are_refused(
    damage: Any, message: str, make_toy: Any, tmp_path: Path
) -> None:
    problem = make_toy([6, 6]).problem
    DdpgStrategy(problem).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(RunError, match=message):
        DdpgStrategy(problem, agent=str(tmp_path))


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "agent.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_agent_is_never_half_written(
    make_toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = DdpgStrategy(make_toy([8, 8]).problem)
    agent.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(tensors: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("autoprune.study.files.save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        agent.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_built_in_agent_fits_any_network(make_toy: Any) -> None:
    pupil = DdpgStrategy(make_toy([8, 6, 10]).problem, agent=BUILT_IN)
    assert pupil.agent_from == {"path": BUILT_IN, "networks": [10], "episodes": 200}
    assert pupil.ask() is not None


@pytest.mark.usefixtures("few_updates")
def test_an_agent_that_is_no_use_begins_as_the_best_warm_start(make_toy: Any) -> None:
    """Its own candidate comes first, then the warm starts; the best one of all is what it does."""
    for own_is_best in (True, False):
        pupil = DdpgStrategy(make_toy([16, 12, 10, 14]).problem, agent=BUILT_IN)
        before = {k: v.clone() for k, v in pupil._model.actor.state_dict().items()}
        own, *others = (pupil.ask() for _ in range(len(pupil._warm_starts)))
        assert own is not None and own.widths == pupil._play(0.0) and others
        for number, candidate in enumerate([own, *others]):
            assert candidate is not None
            pupil._values[candidate.widths] = -number if own_is_best else number
        pupil._clone_the_best()
        after = pupil._model.actor.state_dict()
        assert all(torch.equal(after[k], v) for k, v in before.items()) == own_is_best


def test_only_agents_take_an_agent(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="for the strategy 'ddpg' or 'local'; 'random' has none"):
        check_strategy("random", agent="somewhere")
    with pytest.raises(RunError, match="there is no agent in"):
        check_strategy("ddpg", agent=str(tmp_path))


@pytest.mark.usefixtures("few_updates")
def test_the_same_episodes_whatever_the_global_randomness(make_toy: Any, play: Any) -> None:
    toy = make_toy([6, 6])
    asked = []
    for junk in (0, 1):
        torch.manual_seed(junk)
        trials = play(DdpgStrategy(toy.problem), toy.value, 8)
        asked.append([trial.candidate for trial in trials])
    assert asked[0] == asked[1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_finds_a_known_optimum(seed: int, make_toy: Any, play: Any) -> None:
    """At most 5 % of what uniform lacks is left after 300 episodes, without error curves."""
    toy = make_toy([12, 8, 10, 12], has_errors=False, seed=seed, trials=300)
    best = max(t.value for t in play(DdpgStrategy(toy.problem), toy.value, 300))
    uniform = toy.value(toy.problem.projection.project(np.ones(4)))
    optimum = toy.optimum()
    assert (optimum - best) / (optimum - uniform) <= 0.05

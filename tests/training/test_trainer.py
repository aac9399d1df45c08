from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.data.splits import SamplesSplit
from autoprune.errors import ModelError, RunError
from autoprune.structure.frozen import running_statistics
from autoprune.structure.tracing.trace import trace
from autoprune.training import trainer as module
from autoprune.training.duration import Duration
from autoprune.training.loggers import Log
from autoprune.training.objective import Objective
from autoprune.training.random_batches import Batch, RandomBatches
from autoprune.training.trainer import train
from autoprune.training.training_values import Recipe, TrainingFiles, TrainingTask, Validation
from autoprune.training.whitening import whitened

RECIPE = Recipe(Duration(steps=24), checks=4, rate=0.1, decay=0.0)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)
    ).eval()


def samples(count: int = 48) -> Samples:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 4, generator=generator)
    return Samples(inputs, (inputs[:, :3]).argmax(1))


def loss_of(model: nn.Module) -> float:
    own = samples()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(own.inputs), own.targets))


def judge(model: nn.Module) -> Validation:
    assert not model.training
    loss = loss_of(model)
    return Validation(-loss, {"loss": loss})


def task(**changes: object) -> TrainingTask:
    plain = TrainingTask(
        network(), RandomBatches(SamplesSplit(samples()), 8, seed=0), Objective(3, True), judge
    )
    return replace(plain, **changes)


def whitened_task() -> TrainingTask:
    given = network()
    structure = trace(given, samples().inputs[:1])
    found = whitened(given, structure, [*samples().batches(16)])
    kept = running_statistics(found.network)
    return task(network=found.network, whitening=found, frozen=kept)


def weights(model: nn.Module) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, weights(one), weights(other)))


def test_a_network_learns_and_the_given_one_stays() -> None:
    own = task()
    before = weights(own.network)
    done = train(own, RECIPE)
    assert loss_of(done.network) == pytest.approx(-done.best.value)
    assert done.best.value > done.first.value and done.best_step > 0
    assert done.steps == 24 and not done.network.training
    assert all(map(torch.equal, before, weights(own.network)))
    assert all(p.grad is None and p.requires_grad for p in done.network.parameters())


def test_the_best_network_is_kept_not_the_last() -> None:
    values = iter([0.0, 3.0, 5.0, 4.0, 4.0])
    seen: list[nn.Module] = []

    def judged(model: nn.Module) -> Validation:
        seen.append(model)
        return Validation(next(values), {})

    done = train(task(validate=judged), RECIPE)
    assert (done.best.value, done.best_step) == (5.0, 12)
    assert equal(done.network, seen[2]) and not equal(done.network, seen[4])


def test_of_equal_values_the_smaller_loss_is_better() -> None:
    one, other = Validation(0.5, {"loss": 1.0}), Validation(0.5, {"loss": 0.9})
    assert other.is_better_than(one) and not one.is_better_than(other)
    assert not one.is_better_than(one)


def test_where_nothing_helps_the_given_network_is_returned() -> None:
    own = task(validate=lambda model: Validation(0.0, {}))
    done = train(own, RECIPE)
    assert done.best_step == 0 and equal(done.network, own.network)


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_at(step: int) -> Callable[[nn.Module], Validation]:
    calls = iter(range(100))

    def judged(model: nn.Module) -> Validation:
        if next(calls) == step:
            raise Killed
        return judge(model)

    return judged


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "whitened"])
@pytest.mark.parametrize("killed", [1, 3])
def test_a_killed_run_ends_in_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float, optimizer: str, killed: int
) -> None:
    """Killed at a validation, after a checkpoint at every step before it."""
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", -1.0)
    recipe = replace(RECIPE, ema=ema, optimizer=optimizer, rate=0.01)
    new = whitened_task if optimizer == "whitened" else task
    whole = train(new(), recipe, TrainingFiles(None, Log(tmp_path / "whole.jsonl")))

    files = TrainingFiles(tmp_path / "state.pt", Log(tmp_path / "history.jsonl"))
    with pytest.raises(Killed):
        train(replace(new(), validate=killed_at(killed)), recipe, files)
    torch.manual_seed(12345)  # whatever the next process begins with
    files = TrainingFiles(tmp_path / "state.pt", Log(tmp_path / "history.jsonl"))
    done = train(new(), recipe, files)

    assert done.best_step > 0 and equal(done.network, whole.network)
    assert (done.best, done.best_step, done.steps) == (whole.best, whole.best_step, whole.steps)
    rows = [
        [
            {key: value for key, value in json.loads(line).items() if key != "seconds"}
            for line in (tmp_path / name).read_text().splitlines()
        ]
        for name in ("whole.jsonl", "history.jsonl")
    ]
    assert [row["step"] for row in rows[0]] == [0, 6, 12, 18, 24]
    assert rows[0] == rows[1]


def test_seconds_go_on_where_they_were(tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    first = train(task(), RECIPE, TrainingFiles(state))
    saved = torch.load(state, weights_only=True)
    torch.save({**saved, "seconds": 1000.0}, state)
    again = train(task(), RECIPE, TrainingFiles(state))
    assert again.steps == first.steps and again.seconds > 1000


def test_a_network_that_another_rule_validated_is_validated_again(tmp_path: Path) -> None:
    """Its value would beat all of today's."""
    state = tmp_path / "state.pt"
    with pytest.raises(Killed):
        train(task(validate=killed_at(2)), RECIPE, TrainingFiles(state))
    saved = torch.load(state, weights_only=True)
    saved["best_validation"]["value"] = 1.0
    torch.save({key: value for key, value in saved.items() if key != "rule"}, state)
    done = train(task(), RECIPE, TrainingFiles(state))
    assert done.best_step == train(task(), RECIPE).best_step > 6


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    train(task(), RECIPE, TrainingFiles(state))
    with pytest.raises(RunError, match="is of another run, or damaged"):
        train(task(network=nn.Linear(4, 3)), RECIPE, TrainingFiles(state))


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(ValueError, RunError), (torch.OutOfMemoryError, torch.OutOfMemoryError)],
)
def test_a_checkpoint_is_blamed_for_what_it_can_cause(
    tmp_path: Path, raised: type[Exception], expected: type[Exception]
) -> None:
    """The first step after it fails; memory runs out whatever was restored."""

    class Failing(Objective):
        def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
            raise raised("no")

    files = TrainingFiles(tmp_path / "state.pt")
    with pytest.raises(Killed):
        train(task(validate=killed_at(3)), RECIPE, files)
    with pytest.raises(expected, match="no"):
        train(task(objective=Failing(3, True)), RECIPE, files)


def test_frozen_tensors_stay_bit_identical() -> None:
    frozen = frozenset(name for name in network().state_dict() if name.startswith(("0.", "1.")))
    done = train(task(frozen=frozen), RECIPE)
    before, after = network().state_dict(), done.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["4.weight"], after["4.weight"])
    with pytest.raises(ModelError, match="every parameter is frozen"):
        train(task(frozen=frozenset(before)), RECIPE)


def test_weights_frozen_by_the_user_stay_and_stay_frozen() -> None:
    given = network()
    given[0].weight.requires_grad_(False)
    done = train(task(network=given), RECIPE)
    assert torch.equal(done.network[0].weight, given[0].weight)
    assert [p.requires_grad for p in done.network.parameters()][:2] == [False, True]


def test_a_run_that_diverges_falls_back_to_its_best(caplog: pytest.LogCaptureFixture) -> None:
    losses = iter(range(100))

    def explodes(outputs: Tensor, targets: Tensor) -> Tensor:
        scale = math.inf if next(losses) == 14 else 1.0
        return nn.functional.cross_entropy(outputs, targets) * scale

    with caplog.at_level(logging.INFO):
        done = train(task(objective=Objective(None, True, loss=explodes)), RECIPE)
    assert done.diverged == 14 and done.steps == 14
    assert done.best_step in (6, 12) and math.isfinite(loss_of(done.network))


def test_the_average_is_what_is_judged_and_kept() -> None:
    plain, averaged = train(task(), RECIPE), train(task(), replace(RECIPE, ema=0.99))
    assert not equal(plain.network, averaged.network)
    begun, moved = weights(network()), weights(averaged.network)
    far = weights(plain.network)
    # The average of a short run is still near where it began.
    assert (moved[0] - begun[0]).norm() < (far[0] - begun[0]).norm()


def test_gradients_are_clipped() -> None:
    clipped = train(task(), replace(RECIPE, clip=1e-6))
    begun, moved = network().state_dict(), clipped.network.state_dict()
    assert torch.allclose(begun["4.weight"], moved["4.weight"], atol=1e-4)


def test_a_network_without_gradients_is_refused() -> None:
    class Detached(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs).detach()

    with pytest.raises(ModelError, match="runs without gradients"):
        train(task(network=Detached(4, 3).eval()), RECIPE)


def test_a_network_that_fails_in_training_mode_is_named() -> None:
    class Fails(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("only for inference")
            return super().forward(inputs)

    with pytest.raises(ModelError, match="fails in training mode: RuntimeError: only for inf"):
        train(task(network=Fails(4, 3).eval()), RECIPE)


def test_bfloat16_trains_single_precision_weights() -> None:
    done = train(task(), replace(RECIPE, precision="bfloat16"))
    assert done.best.value > done.first.value
    assert {p.dtype for p in done.network.parameters()} == {torch.float32}


def test_time_ends_a_run() -> None:
    done = train(task(), replace(RECIPE, duration=Duration(seconds=0.2)))
    assert done.steps > 0 and done.seconds >= 0.2

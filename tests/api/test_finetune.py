"""Fine-tuning from Python: networks that are no classifiers, data without labels, what stays."""

from __future__ import annotations

import copy
import itertools
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from searches import FEW
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from worsened import worsened

import autoprune
from autoprune.errors import UsageError
from autoprune.models.demo.network import digits_cnn, load_demo


def regressor() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 1),
    ).eval()


def images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def error(model: nn.Module) -> float:
    inputs = images(64, 5)
    with torch.no_grad():
        return float((model(inputs)[:, 0] - inputs.mean((1, 2, 3))).square().mean())


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Any, Path]:
    """A trained regressor, its data, and a run that cut it; not to be changed."""
    model, inputs = regressor().train(), images(256, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        (model(inputs)[:, 0] - inputs.mean((1, 2, 3))).square().mean().backward()
        optimizer.step()
    data = {
        "train": TensorDataset(inputs, inputs.mean((1, 2, 3))[:, None]),
        "val": TensorDataset(images(64, 2), images(64, 2).mean((1, 2, 3))[:, None]),
    }
    run = autoprune.search(
        model, data=data, budget="flops=0.4", strategy="uniform", recover="off",
        evaluate=lambda network: -error(network), trials=1,
        output=tmp_path_factory.mktemp("regression") / "run",
    )  # fmt: skip
    return model.eval(), data, run.path


def copied(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to / "copy"))


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


@pytest.mark.parametrize(("loss", "distill"), [(squared, False), (squared, True), (None, True)])
def test_a_regressor(
    regression, tmp_path: Path, loss: Callable[..., Tensor] | None, distill: bool
) -> None:
    """It learns from targets, from the dense network, or from both; the least loss is best."""
    model, data, run = regression
    own = worsened(run, tmp_path / "copy", noise=3.0)
    before = error(autoprune.load_pruned(regressor(), own))
    done = autoprune.finetune(
        model, own, data=data, loss=loss, distill=distill, epochs=12, batch=32, optimizer="adamw",
        learning_rate=0.01,
    )  # fmt: skip
    figures = done.result["finetune"]["validation"]
    assert figures["best"]["loss"] < figures["first"]["loss"]
    assert error(done.model) < before / 2
    again = autoprune.load_pruned(regressor(), own)
    assert torch.equal(done.model(images(3, 0)), again(images(3, 0)))


@pytest.mark.parametrize(
    ("chosen", "in_place"),
    [({}, True), ({"weight_decay": 0.01}, False), ({"from_scratch": True}, False)],
    ids=str,
)
def test_what_trains_where_no_optimizer_is_named(
    regression, tmp_path: Path, chosen: dict[str, Any], in_place: bool
) -> None:
    """Whitened training leaves the statistics of BN, sgd does not. The last network is the best."""
    model, data, run = regression
    own = copied(run, tmp_path)
    before = autoprune.load_pruned(regressor(), own).state_dict()
    later = itertools.count()
    done = autoprune.finetune(
        model, own, data=data, loss=squared, evaluate=lambda network: float(next(later)), epochs=1,
        batch=32, **chosen,
    )  # fmt: skip
    after = done.model.state_dict()
    assert torch.equal(before["1.running_var"], after["1.running_var"]) is in_place
    assert not torch.equal(before["0.weight"], after["0.weight"])


def test_statistics_that_are_frozen_change_nothing_where_they_stay_anyway(
    regression, tmp_path: Path
) -> None:
    model, data, run = regression
    same = [
        autoprune.finetune(
            model, worsened(run, tmp_path / str(freeze), noise=3.0), data=data, loss=squared,
            epochs=2, batch=32, freeze_batchnorm=freeze,
        ).model(images(3, 0))
        for freeze in (False, True)
    ]  # fmt: skip
    assert torch.equal(*same)


def test_networks_in_float16_are_trained_by_sgd(regression, tmp_path: Path) -> None:
    model, data, run = regression
    half = {
        name: TensorDataset(*(one.half() for one in split.tensors)) for name, split in data.items()
    }
    own = copied(run, tmp_path)
    options: dict[str, Any] = {"data": half, "epochs": 1, "batch": 32, "loss": squared}
    with pytest.raises(UsageError, match="optimizer whitened does not train networks in float16"):
        autoprune.finetune(copy.deepcopy(model).half(), own, optimizer="whitened", **options)
    done = autoprune.finetune(copy.deepcopy(model).half(), own, **options)
    assert not done.result["finetune"]["diverged"]


@pytest.mark.parametrize("freeze", [False, True])
def test_running_statistics_stay_where_they_are_frozen(
    regression, tmp_path: Path, freeze: bool
) -> None:
    model, data, run = regression
    own = worsened(run, tmp_path / "copy", noise=3.0)
    before = autoprune.load_pruned(regressor(), own).state_dict()
    done = autoprune.finetune(
        model, own, data=data, loss=squared, epochs=2, batch=32, optimizer="adamw",
        learning_rate=0.01, freeze_batchnorm=freeze,
    )  # fmt: skip
    after = done.model.state_dict()
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert same == (statistics if freeze else set())


def test_the_users_distance_is_what_the_dense_network_teaches_by(
    regression, tmp_path: Path
) -> None:
    model, data, run = regression
    own, seen = copied(run, tmp_path), []

    def apart(outputs: Tensor, dense: Tensor) -> Tensor:
        seen.append(len(outputs))
        return (outputs - dense).abs().mean()

    autoprune.finetune(model, own, data=data, distance=apart, epochs=1)
    assert seen
    with pytest.raises(autoprune.AutopruneError, match="distance must be a function"):
        autoprune.finetune(model, own, data=data, distance=3, epochs=1)  # type: ignore[arg-type]


def test_nothing_to_learn_from(regression, tmp_path: Path) -> None:
    model, data, run = regression
    with pytest.raises(autoprune.AutopruneError, match="the network is no classifier"):
        autoprune.finetune(model, copied(run, tmp_path), data=data, distill=False)


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory, digits) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    return autoprune.search(
        load_demo(), data=digits, output=folder / "run", exclude="stem", **FEW
    ).path


def test_without_labels_the_dense_network_teaches(demo_run, digits, tmp_path: Path) -> None:
    unlabelled = {
        name: TensorDataset(getattr(digits, name).take(range(200)).inputs)
        for name in ("train", "val")
    }
    run = copied(demo_run, tmp_path)
    done = autoprune.finetune(load_demo(), run, data=unlabelled, epochs=2, batch=50)
    first, best = (done.result["finetune"]["validation"][one] for one in ("first", "best"))
    assert "top1" not in first and best["kl"] <= first["kl"]


def test_what_was_excluded_stays_and_the_given_network_too(
    demo_run, digits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_demo().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    with caplog.at_level(logging.INFO):
        done = autoprune.finetune(
            model, copied(demo_run, tmp_path), data=digits, epochs=1, batch=64, learning_rate=0.05
        )
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    small = done.model.state_dict()
    assert all(torch.equal(before[n], small[n]) for n in before if n.startswith("stem"))


def test_a_search_that_goes_on_makes_an_earlier_training_void(
    demo_run, digits, tmp_path: Path
) -> None:
    run = copied(demo_run, tmp_path)
    done = autoprune.finetune(load_demo(), run, data=digits, epochs=1)
    assert "finetune" in done.result
    options = {**FEW, "trials": FEW["trials"] + 2}
    autoprune.search(load_demo(), data=digits, output=run, exclude="stem", resume=True, **options)
    assert not (run / "finetuned.safetensors").exists()
    assert not (run / "finetune.toml").exists()


def test_mistakes(demo_run, digits, tmp_path: Path) -> None:
    run = copied(demo_run, tmp_path)
    with pytest.raises(autoprune.AutopruneError, match="unknown option 'epoch'; did you mean"):
        autoprune.finetune(load_demo(), run, data=digits, epoch=3)
    with pytest.raises(autoprune.AutopruneError, match="nothing to resume"):
        autoprune.finetune(load_demo(), run, data=digits, resume=True)
    with pytest.raises(autoprune.AutopruneError, match="give the dense one its trained weights"):
        autoprune.finetune(digits_cnn(), run, data=digits)
    assert not (run / "finetune.toml").exists()


@pytest.mark.parametrize(
    "call",
    [
        lambda: autoprune.finetune(load_demo(), 3, data=None),
        lambda: autoprune.export(load_demo(), 3),
        lambda: autoprune.export(load_demo(), "run", output=3),
        lambda: autoprune.report(3),
        lambda: autoprune.report("run", output=3),
    ],
)
def test_what_is_no_path_is_told(call: Callable[[], object]) -> None:
    with pytest.raises(autoprune.AutopruneError, match="must be a path, but got 3"):
        call()

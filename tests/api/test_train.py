"""Training with a method, the cut and fine-tuning from Python, and what goes on after a stop."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import autoprune
from autoprune.cli.subjects import load_subjects
from autoprune.data import Splits
from autoprune.engine import train as module
from autoprune.methods.slimming import Slimming
from autoprune.models.demo import load_demo
from autoprune.study.ledger import read_trials
from autoprune.study.run_directory import RunDirectory

QUICK: dict[str, Any] = {
    "calibration_samples": 64,
    "search_samples": 64,
    "selection_samples": 64,
    "report": False,
    "augment": "none",
}


@pytest.fixture(scope="module")
def trained(digits: Splits, tmp_path_factory: pytest.TempPathFactory) -> autoprune.Run:
    """A finished training of the demo, not to be changed."""
    output = tmp_path_factory.mktemp("train") / "run"
    return autoprune.train(
        load_demo(), data=digits, method=Slimming(sparsity=1e-3), budget="flops=0.5", epochs=2,
        output=output, **QUICK,
    )  # fmt: skip


def state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_a_run_like_any_other(trained: autoprune.Run) -> None:
    """Within the budget, with what the method was and what each network scores."""
    result = trained.result
    costs = result["costs"]
    assert costs["pruned"]["flops"] <= 0.5 * costs["dense"]["flops"]
    done = result["train"]
    assert (done["method"], done["options"], done["epochs"]) == ("slimming", {"sparsity": 1e-3}, 1)
    assert done["scores"].keys() == {"given", "trained", "cut"} and done["split"] == "test"
    score, scores = result["score"], done["scores"]
    assert (score["dense"], score["kl"]) == (scores["given"]["top1"], scores["cut"]["kl"])
    assert score["pruned"] == scores["cut"]["top1"]
    assert result["finetune"]["epochs"] == 1
    inputs = torch.rand(3, 1, 8, 8)
    again = autoprune.load_pruned(load_demo(), trained.path)
    assert torch.equal(trained.model(inputs), again(inputs))
    assert not (trained.path / "checkpoints").exists()


def test_fine_tuning_goes_on_from_a_run_that_was_moved(
    trained: autoprune.Run, digits: Splits, tmp_path: Path
) -> None:
    """The dense network of the run is the trained one, wherever it lies."""
    run = Path(shutil.copytree(trained.path, tmp_path / "moved"))
    done = autoprune.finetune(load_demo(), run, data=digits, epochs=1, overwrite=True)
    assert done.result["finetune"]["epochs"] == 1


def test_the_given_network_stays(digits: Splits, tmp_path: Path) -> None:
    model = load_demo().train()
    before = state(model)
    autoprune.train(
        model, data=digits, method="slimming", budget="flops=0.7", epochs=1, finetune_epochs=0,
        output=tmp_path / "run", **QUICK,
    )  # fmt: skip
    assert model.training and all(torch.equal(v, before[k]) for k, v in state(model).items())


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("stage", ["train", "run_search", "finetune_run"])
def test_a_killed_training_goes_on(
    trained: autoprune.Run, digits: Splits, tmp_path: Path, stage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """To the same weights, whichever part it was killed after."""

    def killed(*args: Any, **options: Any) -> Any:
        getattr(module, f"real_{stage}")(*args, **options)
        raise Killed

    given: dict[str, Any] = {
        "data": digits, "method": Slimming(sparsity=1e-3), "budget": "flops=0.5", "epochs": 2,
        "output": tmp_path / "run", **QUICK,
    }  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(module, f"real_{stage}", getattr(module, stage), raising=False)
        patch.setattr(module, stage, killed)
        with pytest.raises(Killed):
            autoprune.train(load_demo(), **given)
    done = autoprune.train(load_demo(), **given, resume=True)
    expected = state(trained.model)
    assert all(torch.equal(value, expected[name]) for name, value in state(done.model).items())
    assert done.policy.groups.keys() == trained.policy.groups.keys()


def test_the_end_of_a_training_goes_on_with_it_alone(
    digits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its teacher is the given network; `finetune` would take the trained one."""
    given: dict[str, Any] = {
        "data": digits, "method": "slimming", "budget": "flops=0.5", "epochs": 1,
        "output": tmp_path / "run", **QUICK,
    }  # fmt: skip

    def killed(context: Any, done: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("autoprune.engine.finetune._tell", killed)
        with pytest.raises(Killed):
            autoprune.train(load_demo(), **given)
    with pytest.raises(autoprune.AutopruneError, match="autoprune train --resume --output"):
        autoprune.finetune(load_demo(), tmp_path / "run", data=digits, epochs=0.5, resume=True)
    done = autoprune.train(load_demo(), **given, resume=True)
    assert done.result["finetune"]["epochs"] > 0 and done.result["train"]["epochs"] > 0


def test_a_training_killed_as_it_begins_begins_again(digits: Splits, tmp_path: Path) -> None:
    """Its options alone are no run: they are replaced, and no search takes them for a training."""
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.method.save_config({"method": "slimming", "epochs": 7.0})
    given: dict[str, Any] = {"data": digits, "method": "slimming", "budget": "flops=0.5"}
    with pytest.raises(autoprune.AutopruneError, match="begin again without resume=True"):
        autoprune.train(load_demo(), **given, output=run.path, epochs=7, resume=True, **QUICK)
    run.check_free()
    run.create({"budget": "flops=0.5"})
    assert not run.method.is_begun


@pytest.mark.parametrize("frozen", ["all", "all but allowed", "first"])
def test_frozen_networks(
    digits: Splits, tmp_path: Path, caplog: pytest.LogCaptureFixture, frozen: str
) -> None:
    """One layer keeps its weights; where none may change, the network was made for inference."""
    model = load_demo()
    first = next(iter(model.named_parameters()))[0]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen == "first" and name != first)
    with caplog.at_level(logging.INFO):
        done = autoprune.train(
            model, data=digits, method="c_sgd", budget="flops=0.5", epochs=0.6,
            finetune_epochs=0.3, output=tmp_path / "run",
            train_frozen=frozen == "all but allowed", **QUICK,
        )  # fmt: skip
    said = [text for text in caplog.messages if "as for inference" in text]
    assert len(said) == (1 if frozen == "all" else 0)
    trained, given = load_file(done.path / "trained.safetensors"), model.state_dict()
    stays = [
        name for name, one in model.named_parameters() if torch.equal(trained[name], given[name])
    ]
    assert stays == ([first] if frozen == "first" else [])
    assert done.result["train"]["remaining"] > 0  # what is merged is what was trained
    assert not next(done.model.parameters()).requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "sliming"}, "unknown method 'sliming'; did you mean 'slimming'"),
        ({"method_config": {"sparsity": -1}}, "the method 'slimming' cannot have sparsity=-1"),
        ({"method_config": {"rho": 1}}, "the method 'slimming' has no option 'rho'"),
        ({"budget": None}, "does not decide how much goes: give a budget"),
        ({"budget": "flops=0.0001"}, "out of reach"),
        ({"epochs": 1, "finetune_epochs": 2}, "more than all 1 epochs"),
        ({"exclude": "nothing"}, "'nothing'"),
        ({"time": 3}, "unknown option 'time'"),
        ({"distill": False, "distill_features": 1.0}, "teaches nothing here"),
    ],
)
def test_mistakes_are_one_line(
    digits: Splits, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    given = {"method": "slimming", "budget": "flops=0.5", "epochs": 2, **QUICK, **options}
    with pytest.raises(autoprune.AutopruneError, match=message) as caught:
        autoprune.train(load_demo(), data=digits, output=tmp_path / "run", **given)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_several_processes_are_refused(
    digits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(autoprune.AutopruneError, match="runs in one process"):
        autoprune.train(
            load_demo(), data=digits, method="slimming", budget="flops=0.5", output=tmp_path / "run"
        )


def test_existing_output_and_other_options_are_refused(
    trained: autoprune.Run, digits: Splits
) -> None:
    given: dict[str, Any] = {"data": digits, "budget": "flops=0.5", "epochs": 2, **QUICK}
    with pytest.raises(autoprune.AutopruneError, match="holds another run"):
        autoprune.train(load_demo(), method="slimming", output=trained.path, **given)
    with pytest.raises(autoprune.AutopruneError, match="cannot resume with"):
        autoprune.train(load_demo(), method="slimming", output=trained.path, resume=True, **given)


def test_widths_of_a_run_are_the_target(
    trained: autoprune.Run, digits: Splits, tmp_path: Path
) -> None:
    """Whatever the method learns, and whatever becomes of that run."""
    other = Path(shutil.copytree(trained.path, tmp_path / "other"))
    given: dict[str, Any] = {
        "data": digits, "method": "c_sgd", "widths_from": other, "epochs": 0.4,
        "output": tmp_path / "run", **QUICK,
    }  # fmt: skip
    done = autoprune.train(load_demo(), **given)
    assert done.result["widths"] == trained.result["widths"]
    shutil.rmtree(other)
    again = autoprune.train(load_demo(), **given, resume=True)
    assert again.policy.fingerprint == done.policy.fingerprint
    with pytest.raises(autoprune.AutopruneError, match="stands instead of budget"):
        autoprune.train(load_demo(), **{**given, "budget": "flops=0.5"}, resume=True)


def test_widths_that_the_space_does_not_allow_are_refused_before_training(
    trained: autoprune.Run, digits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "train", None)
    with pytest.raises(autoprune.AutopruneError, match=r"is not allowed, .* give the min_keep"):
        autoprune.train(
            load_demo(), data=digits, method="c_sgd", widths_from=trained.path, epochs=1,
            min_keep=1.0, output=tmp_path / "run", **QUICK,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_search_begins_at_what_was_learnt(
    trained: autoprune.Run, digits: Splits, tmp_path: Path
) -> None:
    """The learnt widths are its first trial, and their units those with the largest scores."""
    given: dict[str, Any] = {
        "data": digits, "budget": "flops=0.5", "trials": 2, "recover": "off", "report": False,
        **{key: QUICK[key] for key in QUICK if key.endswith("samples")},
    }  # fmt: skip
    fresh = load_demo()
    for parameter in fresh.parameters():
        torch.nn.init.zeros_(parameter)
    done = autoprune.search(fresh, from_training=trained.path, output=tmp_path / "run", **given)
    scores = load_file(trained.path / "trained-scores.safetensors")
    for name, group in done.policy.groups.items():
        best = scores[name].argsort(descending=True, stable=True)[: len(group.kept)].tolist()
        assert list(group.kept) == sorted(best)
    first = read_trials(RunDirectory(done.path).storage)[0].candidate.widths
    learnt = {name: len(kept) for name, kept in trained.policy.kept.items()}
    assert dict(zip(done.policy.groups, first, strict=True)) == learnt
    expected = load_file(trained.path / "trained.safetensors")
    dense = load_subjects(str(done.path), {"model": "demo", "data": "digits"}, "test").dense
    for own in (load_file(done.path / "trained.safetensors"), dense.state_dict()):
        assert own.keys() == expected.keys()
        assert all(torch.equal(own[name], one) for name, one in expected.items())
    for options, message in (
        ({"from_training": done.path}, "is no run of autoprune train"),
        ({"from_training": trained.path, "importance": "l1"}, "leave out importance"),
        ({"from_training": trained.path, "from_run": done.path}, "exclude each other"),
        ({"from_training": trained.path, "exclude": "stem"}, "of another network or pruned other"),
    ):
        with pytest.raises(autoprune.AutopruneError, match=message):
            autoprune.search(load_demo(), output=tmp_path / "wrong", **given, **options)
        assert not (tmp_path / "wrong").exists()

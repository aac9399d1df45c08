from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from worsened import worsened

import autoprune
from autoprune.models.demo.network import digits_cnn

EPOCHS = ("--epochs", "4", "--batch", "96")


@pytest.fixture
def run(demo_run, tmp_path: Path) -> Path:
    """A copy of a finished run whose weights are much worse than the dense network's."""
    return worsened(demo_run[0], tmp_path / "run")


def result_of(run: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result


def history(run: Path, name: str = "history.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def test_finetuning_brings_accuracy_back(run: Path, cli) -> None:
    before = result_of(run)
    (run / "report.html").write_text("an earlier page")
    done = cli("finetune", str(run), *EPOCHS)
    assert done.status == 0, done.err
    assert "fine-tuned" in done.out and "test split" in done.out
    result, rows = result_of(run), history(run)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[-1]["top1"] > rows[0]["top1"] + 0.05
    own = result["finetune"]
    assert own["epochs"] == 4 and own["steps"] == 48 and 0 < own["best_epoch"] <= 4
    assert own["optimizer"] == "whitened" and 0 < own["learning_rate"] <= 0.006
    assert f"({own['optimizer']}, learning rate {own['learning_rate']:.2g})" in done.out
    assert own["validation"]["first"]["top1"] == rows[0]["top1"]
    assert result["score"]["finetuned"] > 0.9 and result["score"]["finetuned_kl"] > 0
    changed = {"finetune", "score"}
    assert {k: v for k, v in result.items() if k not in changed} == {
        k: v for k, v in before.items() if k not in changed
    }
    assert not (run / "checkpoints").exists()
    assert "fine-tuned" in (run / "report.html").read_text()
    small = autoprune.load_pruned(digits_cnn(), run)
    tuned = load_file(run / "finetuned.safetensors")
    assert all(torch.equal(value, tuned[name]) for name, value in small.state_dict().items())


def test_weights_are_chosen_by_name(run: Path, cli) -> None:
    assert cli("finetune", str(run), "--epochs", "1").status == 0
    cut, tuned = (
        autoprune.load_pruned(digits_cnn(), run, weights=name) for name in ("cut", "finetuned")
    )
    assert not torch.equal(next(cut.parameters()), next(tuned.parameters()))
    with pytest.raises(autoprune.AutopruneError, match="has no recovered weights; it has cut, fin"):
        autoprune.load_pruned(digits_cnn(), run, weights="recovered")
    with pytest.raises(autoprune.AutopruneError, match=r"unknown weights 'tuned'; .*'finetuned'"):
        autoprune.load_pruned(digits_cnn(), run, weights="tuned")


def test_evaluate_takes_the_finetuned_network(run: Path, cli) -> None:
    before = json.loads(cli("evaluate", str(run), "--json").out)
    assert cli("finetune", str(run), *EPOCHS).status == 0
    after = json.loads(cli("evaluate", str(run), "--json").out)
    assert after["pruned"]["top1"] == result_of(run)["score"]["finetuned"]
    assert after["pruned"]["top1"] > before["pruned"]["top1"]


def test_features_are_learnt_besides(run: Path, cli) -> None:
    done = cli("finetune", str(run), *EPOCHS, "--distill-features", "0.5")
    assert done.status == 0, done.err
    assert history(run)[-1]["top1"] > history(run)[0]["top1"] + 0.05


def test_from_scratch_stands_beside(run: Path, cli) -> None:
    done = cli("finetune", str(run), "--from-scratch", "--epochs", "6", "--learning-rate", "0.1")
    assert done.status == 0, done.err
    assert "from scratch" in done.out
    result = result_of(run)
    assert result["from_scratch"]["epochs"] == 6 and "finetuned" not in result["score"]
    assert history(run, "from-scratch-history.jsonl")[0]["top1"] < 0.3
    assert result["score"]["from_scratch"] > 0.3
    assert (run / "from-scratch.safetensors").exists()
    assert not (run / "finetuned.safetensors").exists()
    fresh, cut = (autoprune.load_pruned(digits_cnn(), run, one) for one in ("from_scratch", None))
    assert not torch.equal(next(fresh.parameters()), next(cut.parameters()))
    again = cli("finetune", str(run), "--from-scratch", "--resume")
    assert again.status == 0 and "training from scratch of the run" in again.err


def test_an_existing_training_is_not_lost(run: Path, cli) -> None:
    assert cli("finetune", str(run), "--epochs", "1").status == 0
    before = (run / "finetuned.safetensors").read_bytes()
    done = cli("finetune", str(run), "--epochs", "2")
    assert done.status == 2 and "--overwrite" in done.err and "already" in done.err
    assert (run / "finetuned.safetensors").read_bytes() == before
    assert cli("finetune", str(run), "--epochs", "2", "--overwrite").status == 0
    assert result_of(run)["finetune"]["epochs"] == 2


def test_an_interrupted_training_goes_on(run: Path, cli, monkeypatch) -> None:
    from autoprune.training import trainer

    whole = run.with_name("whole")
    shutil.copytree(run, whole)
    assert cli("finetune", str(whole), *EPOCHS).status == 0

    save, calls = trainer.save_checkpoint, []

    def interrupted(*arguments: Any) -> None:
        save(*arguments)
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "save_checkpoint", interrupted)
    done = cli("finetune", str(run), *EPOCHS)
    assert done.status == 130
    assert f"continue with: autoprune finetune {run} --resume" in done.err
    assert (run / "checkpoints" / "finetune.pt").exists()
    assert "finetune" not in result_of(run)
    done = cli("finetune", str(run), "--resume")
    assert done.status == 0, done.err
    equal = [(one / "finetuned.safetensors").read_bytes() for one in (run, whole)]
    assert equal[0] == equal[1]
    assert result_of(run)["score"] == result_of(whole)["score"]


def test_a_finished_training_that_is_resumed_says_so(run: Path, cli) -> None:
    assert cli("finetune", str(run), "--epochs", "1").status == 0
    before = (run / "finetuned.safetensors").read_bytes()
    done = cli("finetune", str(run), "--resume")
    assert done.status == 0 and "is finished" in done.err
    assert (run / "finetuned.safetensors").read_bytes() == before


def test_a_loss_and_a_score_of_the_users_own(run: Path, cli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from torch.nn.functional import cross_entropy\n"
        "def loss(outputs, targets):\n"
        "    return cross_entropy(outputs, targets)\n"
        "def score(model):\n"
        "    return -float(sum(p.square().sum() for p in model.parameters()).detach())\n"
    )
    done = cli(
        "finetune", str(run), "--epochs", "1", "--loss", "mine.py:loss", "--evaluate",
        "mine.py:score", "--weight-decay", "1", "--no-distill",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert set(history(run)[0]) >= {"score"} and "top1" not in history(run)[0]
    assert result_of(run)["score"]["finetuned"] == history(run)[-1]["score"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", "0"), "epochs must be above zero, but got 0"),
        (("--time", "0s"), "time '0s' is not a duration above zero"),
        (("--optimizer", "adm"), "unknown optimizer 'adm'; did you mean 'adamw'?"),
        (("--augment", "standart"), "did you mean 'standard'?"),
        (("--precision", "half"), "unknown precision 'half'"),
        (("--logger", "tensorbord"), "did you mean 'tensorboard'?"),
        (("--resume",), "nothing to resume"),
        (("--loss", "losses.py:mine"), "no such file"),
        (("--distill-features", "1", "--no-distill"), "do not turn distillation off"),
        (("--mixup", "-1"), "mixup must be 0 or more"),
        (
            ("--optimizer", "whitened", "--from-scratch"),
            "--optimizer whitened and --from-scratch exclude each other.",
        ),
        (
            ("--optimizer", "whitened", "--weight-decay", "1e-4"),
            "--optimizer whitened and --weight-decay exclude each other.",
        ),
    ],
)
def test_mistakes_are_one_line(run: Path, cli, options: tuple[str, ...], message: str) -> None:
    before = sorted(path.name for path in run.iterdir())
    done = cli("finetune", str(run), *options)
    assert done.status == 2 and message in done.err
    assert len([line for line in done.err.splitlines() if "Error" in line]) == 1
    assert sorted(path.name for path in run.iterdir()) == before


def test_runs_that_cannot_be_trained(run: Path, cli, tmp_path: Path) -> None:
    done = cli("finetune", "nowhere")
    assert done.status == 2 and "holds no run" in done.err
    (run / "result.json").unlink()
    done = cli("finetune", str(run))
    assert done.status == 2 and "is not finished" in done.err


def test_another_network_or_untrained_weights(run: Path, cli, tmp_path: Path) -> None:
    done = cli("finetune", str(run), "--model", "torchvision:squeezenet1_1")
    assert done.status == 2 and len(done.err.strip().splitlines()) == 1
    (tmp_path / "net.py").write_text("from autoprune.models.demo.network import digits_cnn\n")
    done = cli("finetune", str(run), "--model", "net.py:digits_cnn")
    assert done.status == 2 and "give the dense one its trained weights" in done.err


def test_options_that_differ_from_the_begun_ones_are_refused(run: Path, cli) -> None:
    (run / "finetune.toml").write_text("epochs = 3.0\n")
    done = cli("finetune", str(run), "--resume", "--epochs", "5")
    assert done.status == 2 and "cannot resume with epochs=5.0" in done.err


def test_a_training_with_a_loss_goes_on_with_it_alone(run: Path, cli, tmp_path: Path) -> None:
    text = "from torch.nn.functional import cross_entropy as loss\n"
    (tmp_path / "mine.py").write_text(f"{text}from torch.nn.functional import l1_loss as other\n")
    done = cli("finetune", str(run), "--epochs", "1", "--loss", "mine.py:loss")
    assert done.status == 0, done.err
    assert "loss = " in (run / "finetune.toml").read_text()
    result = result_of(run)
    (run / "result.json").write_text(json.dumps({k: result[k] for k in result if k != "finetune"}))
    for option in ((), ("--loss", "mine.py:other")):
        done = cli("finetune", str(run), "--resume", *option)
        assert done.status == 2 and "name that again" in done.err
    assert cli("finetune", str(run), "--resume", "--loss", "mine.py:loss").status == 0


@pytest.mark.slow
def test_two_processes_train_together(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="Accelerate is not installed")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m"]
    command = [*launch, "autoprune.cli.app", "finetune", str(run), *EPOCHS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = history(run)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[-1]["top1"] > rows[0]["top1"] + 0.05
    assert result_of(run)["finetune"]["steps"] == 48

"""Every mistake of a user: status 2, one line that names it and what would do, nothing written."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from autoprune.models.demo.network import digits_cnn

FACTORIES = """
import torch
from torch import nn

class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        raise KeyError("my own mistake")

class Nan(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 10))
        self[0].weight.data[0] = float("nan")

def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def number():
    return 3

def raises():
    raise ValueError("no such size")

constant = 7
"""


@pytest.fixture
def refused(search, tmp_path: Path):
    """Assert that a search is refused in one line with these words, and leaves no output."""
    (tmp_path / "nets.py").write_text(FACTORIES)

    def check(arguments: list[str], *words: str) -> None:
        done = search(*arguments)
        assert done.status == 2
        assert done.out == ""
        error = [line for line in done.err.splitlines() if line.startswith("Error: ")]
        assert len(error) == 1 and done.err.splitlines()[-1] == error[0]
        assert "Traceback" not in done.err
        for word in words:
            assert word in error[0]
        assert not (tmp_path / "out").exists() and not (tmp_path / "runs").exists()

    return check


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--strategy", "randm"], ["'randm'", "'random'"]),
        (["--strategy", "DDPG"], ["'DDPG'", "did you mean 'ddpg'"]),
        (["--sampler", "tpee"], ["'tpee'", "'tpe'"]),
        (["--strategy", "uniform", "--sampler", "gp"], ["'uniform'", "'bayes'"]),
        (["--importance", "obss"], ["'obss'", "'obs'"]),
        (["--reward", "accuracy_flop"], ["'accuracy_flop'", "'accuracy_flops'"]),
        (["--reward", "mine.py:lean"], ["'mine.py:lean'", "no such file"]),
        (["--reward", "nets.py:linea"], ["'linea'", "'linear'"]),
        (["--reward", "nets.py:constant"], ["'nets.py:constant'", "int is not callable"]),
        (["--latency-table", "none.json"], ["latency table", "none.json"]),
        (["--budget", "none"], ["'kl' needs a budget", "flops=0.5", "accuracy_flops"]),
        (
            ["--budget", "none", "--reward", "accuracy_flops", "--strategy", "global"],
            ["'global' needs a budget", "'bayes' or 'ddpg' or 'random'"],
        ),
        (["--trials", "many"], ["--trials", "'many'", "whole number"]),
        (["--trials", "0"], ["--trials must be above zero, but got 0"]),
        (["--search-samples", "0"], ["--search-samples must be above zero, but got 0"]),
        (["--quiet", "--verbose"], ["--quiet and --verbose exclude each other"]),
        (["--max-drop", "1"], ["--max-drop stands instead of --budget"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--round-to", "0"], ["0"]),
        (["--workers", "0"], ["workers", "0"]),
        (["--workers", "all"], ["'all'", "whole number"]),
        (["--at-once", "0"], ["--at-once must be above zero, but got 0"]),
        (["--ray", "nonsense"], ["--ray nonsense", "no address", "HOST:PORT"]),
        (["--ray", "--gpus-per-worker", "1.5"], ["--gpus-per-worker", "1.5", "whole"]),
        (["--gpus-per-worker", "0.5"], ["--gpus-per-worker needs --ray"]),
        (["--time", "soon"], ["'soon'", "10m"]),
        (["--time", "0"], ["'0'"]),
        (["--max-drop", "x"], ["--max-drop", "'x'", "number of points"]),
        (["--min-keep", "1.5"], ["'1.5'", "(0, 1]"]),
        (["--device", "gpu"], ["'gpu'", "cpu"]),
        (["--normalize", "imagenett"], ["'imagenett'", "'imagenet'"]),
        (["--budgt", "1"], ["--budgt", "--budget"]),
    ],
)
def test_options(refused, arguments: list[str], words: list[str]) -> None:
    refused(arguments, *words)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("half", ["'half'", "flops=0.5"]),
        ("flops", ["'flops'", "flops=0.5"]),
        ("flops=0", ["'0'", "flops=0.5"]),
        ("flops=-3M", ["'-3M'", "flops=0.5"]),
        ("flops=2 apples", ["'2 apples'", "flops=0.5"]),
        ("flop=0.5", ["'flop'", "'flops'"]),
        ("memory=1kb", ["memory=1000", "raise the budget"]),
        ("flops=0.001", ["flops=7352.26", "raise the budget"]),
        ("params=100", ["params=100", "raise the budget"]),
    ],
)
def test_budgets(refused, budget: str, words: list[str]) -> None:
    refused(["--budget", budget], *words)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--min-keep", "stm=0.5"), ("--exclude", "stm"), ("--exclude-outputs", "stm")],
)
def test_patterns_that_name_nothing_are_told_before_images_are_read(
    refused, monkeypatch: pytest.MonkeyPatch, option: str, value: str
) -> None:
    monkeypatch.setattr("autoprune.engine.search_task.draw_images", None)
    refused([option, value], f"{option}: no layer matches 'stm'; did you mean 'stem'")


def test_a_table_that_is_not_used_is_told(cli) -> None:
    Path("ddpg.toml").write_text("[strategy.ddpg]\nupdates = 3\n")
    done = cli("search", "--config", "ddpg.toml", "--strategy", "uniform")  # lacks a budget
    told, error = done.err.splitlines()
    assert told.endswith("[strategy.ddpg] is not used, since --strategy uniform is given")
    assert "--budget is missing" in error


def test_missing_budget(cli) -> None:
    done = cli("search", "--trials", "3")
    assert done.status == 2 and "--budget flops=0.5" in done.err
    Path("mine.py").write_text("def lean(found):\n    return 0.0\n")
    done = cli("search", "--reward", "mine.py:lean")
    assert done.status == 2 and "--budget none" in done.err and len(done.err.splitlines()) == 1
    done = cli("search", "--reward", "acuracy")
    assert done.status == 2 and "did you mean 'accuracy'" in done.err


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("torchvison:resnet18", ["'torchvison:resnet18'", "'torchvision:NAME'"]),
        ("ResNet18", ["'ResNet18'", "did you mean 'torchvision:resnet18'"]),
        ("nothing", ["choose one of: demo, torchvision:NAME, timm:NAME, path/to/file.py:factory"]),
        ("torchvision", ["'torchvision'", "'torchvision:NAME'"]),
        ("torchvision:resnet19", ["'torchvision:resnet19'", "'resnet1"]),
        ("demo:big", ["'demo:big'", "'demo'"]),
        ("net.py:linear", ["'net.py'", "no such file"]),
        ("nets.py:lineer", ["'lineer'", "'linear'"]),
        ("nets.py:constant", ["'nets.py:constant'", "not callable"]),
        ("nets.py:number", ["'nets.py:number'", "torch.nn.Module"]),
        ("nets.py:raises", ["'nets.py:raises'", "no such size"]),
        ("nets.py:linear", ["nothing", "pruned"]),
        ("nets.py:Broken", ["KeyError", "my own mistake"]),
        ("nets.py:Nan", ["NaN", "'0.weight'"]),
    ],
)
def test_models(refused, model: str, words: list[str]) -> None:
    refused(["--model", model, "--data", "digits"], *words)


def test_missing_packages(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    refused(["--model", "timm:resnet18", "--data", "digits"], "pip install 'autoprune[timm]'")


def test_model_without_data(refused) -> None:
    refused(["--model", "torchvision:resnet18"], "--data")
    refused(["--data", "digits"], "--model")


def _state() -> dict[str, torch.Tensor]:
    return digits_cnn().state_dict()


def test_weights_that_are_not_there(refused, tmp_path: Path) -> None:
    save_file(_state(), tmp_path / "trained.safetensors")
    refused(["--weights", "traind.safetensors"], "'traind.safetensors'", "'trained.safetensors'")
    refused(["--weights", "nowhere/a.pt"], "'nowhere'")
    refused(["--weights", str(tmp_path)], "directory")


def test_weights_that_do_not_fit(refused, tmp_path: Path) -> None:
    state = _state()
    del state["head.bias"]
    state["tail"] = torch.zeros(1)
    state["stem.0.weight"] = torch.zeros(4, 1, 3, 3)
    torch.save({"state_dict": {f"module.{name}": t for name, t in state.items()}}, "other.pt")
    refused(
        ["--weights", "other.pt"],
        "'other.pt'",
        "missing: head.bias",
        "unexpected: tail",
        "stem.0.weight (file (4, 1, 3, 3), model (32, 1, 3, 3))",
    )


def test_weights_that_are_not_finite(refused) -> None:
    state = _state()
    state["widen.0.weight"][0] = torch.nan
    torch.save(state, "nan.pt")
    refused(["--weights", "nan.pt"], "'nan.pt'", "'widen.0.weight'", "NaN")


def test_weights_that_could_run_code(refused) -> None:
    torch.save({"state_dict": _state(), "args": argparse.Namespace()}, "code.pt")
    refused(["--weights", "code.pt"], "run code", "argparse.Namespace", "safetensors")
    torch.save(nn.Linear(2, 2), "whole.pt")
    refused(["--weights", "whole.pt"], "run code", "Linear", "state_dict()")


def test_weights_that_are_none(refused, tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    refused(["--weights", "empty.pt"], "'empty.pt'", "empty")
    for name in ("text.pt", "text.safetensors"):
        (tmp_path / name).write_text("hello, this is no checkpoint")
        refused(["--weights", name], f"{name}'", "damaged")
    torch.save(_state(), "half.pt")
    whole = (tmp_path / "half.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    refused(["--weights", "half.pt"], "damaged")
    torch.save([1, 2], "list.pt")
    refused(["--weights", "list.pt"], "list", "state_dict()")
    torch.save({"epoch": 3}, "epoch.pt")
    refused(["--weights", "epoch.pt"], "'epoch'", "int")


def _npz(name: str, channels: int = 1, label: int = 0, samples: int = 20) -> None:
    images = np.zeros((samples, 8, 8, channels), np.uint8)
    np.savez(name, x=images, y=np.full(samples, label))


DATASETS = """
import torch
from torch.utils.data import TensorDataset

def nan():
    return TensorDataset(torch.full((20, 1, 8, 8), float("nan")), torch.zeros(20).long())
"""


def test_data(refused, tmp_path: Path) -> None:
    (tmp_path / "sets.py").write_text(DATASETS)
    _npz("rgb.npz", channels=3)
    _npz("none.npz", samples=0)

    def check(data: str, *words: str) -> None:
        refused(["--model", "demo", "--data", data], *words)

    check("npzz:rgb.npz", "'npzz:rgb.npz'", "'npz'")
    check("npz:rbg.npz", "rbg.npz")
    check("imagefolder:nowhere", "nowhere")
    check("npz:rgb.npz", "1 channels", "3 channels")
    check("npz:none.npz", "train split is empty")
    check("sets.py:nan", "NaN")


def test_label_outside_the_outputs(refused) -> None:
    _npz("label.npz", label=12)
    refused(["--model", "demo", "--data", "npz:label.npz"], "12", "10 classes")


def test_output_that_is_taken(search, demo_run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    done = search()
    assert done.status == 2 and "'out'" in done.err and len(done.err.splitlines()) == 1
    done = search("--output", str(demo_run[0]))
    assert done.status == 2 and "another run" in done.err and "--resume" in done.err


def test_output_that_cannot_be_made(search) -> None:
    done = search("--output", "/proc/run")
    assert done.status == 2 and "/proc/run" in done.err.splitlines()[-1]


def test_config_file(refused, tmp_path: Path) -> None:
    for content, words in {
        "stratgy = 'uniform'": ["'stratgy'", "'strategy'"],
        "reward = 3": ["reward", "a text", "3"],
        "trials = true": ["trials", "whole number", "True"],
        "budget = 0.5": ["budget", "a text", "0.5"],
        "exclude = 3": ["exclude", "pattern"],
        "time = 'soon'": ["'soon'"],
        "trials = = 3": ["cannot be read"],
        "strategy = 'randm'": ["'bad.toml'", "'randm'", "'random'"],
        "budget = 'half'": ["'bad.toml'", "'half'", "flops=0.5"],
        "[strategy.uniform]\nupdates = 3": ["'uniform'", "no option 'updates'"],
        "[strategy.uniform]\n[strategy.local]": ["'uniform', 'local'", "--strategy"],
        "[strategy]\nuniform = 3": ["[strategy.uniform]", "3"],
    }.items():
        (tmp_path / "bad.toml").write_text(content)
        refused(["--config", "bad.toml"], *words)
    refused(["--config", "gone.toml"], "'gone.toml'")


def test_resume(cli, demo_run, tmp_path: Path) -> None:
    def check(arguments: list[str], *words: str) -> None:
        done = cli("search", "--resume", *arguments)
        assert done.status == 2 and len(done.err.splitlines()) == 1
        assert all(word in done.err for word in words)

    check([], "--output DIR")
    check(["--output", "gone"], "'gone'", "no run")
    assert not (tmp_path / "gone").exists()
    run = str(demo_run[0])
    check(["--output", run, "--budget", "flops=0.3"], "--budget", "--trials")
    check(["--output", run, "--seed", "0", "--config", "small.toml"], "--seed", "--config")


def test_commands(cli) -> None:
    done = cli("serch")
    assert done.status == 2 and "'serch'" in done.err and "'search'" in done.err
    done = cli("search", "--budget", "flops=0.5", "--trials")
    assert (
        done.err
        == "Error: Option '--trials' requires an argument. (See autoprune search --help.)\n"
    )
    done = cli("evaluate", "gone")
    assert done.status == 2 and "'gone'" in done.err
    done = cli("inspect", "--input-shape", "3x0x4")
    assert done.status == 2 and "'3x0x4'" in done.err
    done = cli("inspect", "--input-shape", "3x8x8")
    assert done.status == 2 and "3 channels" in done.err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("search --budget flops=0.5 --output file/run", "output 'file/run' cannot be made"),
        ("search --budget flops=0.5 --output file", "exists and is no run"),
        ("profile --output file/table.json", "--output 'file/table.json' cannot be made"),
        ("profile --plot folder", "--plot 'folder' is a directory"),
        ("profile --kit file/kit", "--kit 'file/kit' cannot be made"),
        ("profile --kit file", "--kit 'file' is a file"),
        ("evaluate {run} --kit file/kit", "--kit 'file/kit' cannot be made"),
    ],
)
def test_what_cannot_be_written_is_told_before_any_network_is_loaded(
    cli, demo_run, command: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").touch()
    Path("folder").mkdir()
    loaded: list[str] = []
    monkeypatch.setattr("autoprune.models.loading.load_model", loaded.append)
    done = cli(*command.format(run=demo_run[0]).split())
    assert done.status == 2 and told in done.err and len(done.err.splitlines()) == 1
    assert not loaded and {path.name for path in Path().iterdir()} >= {"file", "folder"}

"""`--evaluate`: a score of the user's own, for networks that are no classifiers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from autoprune.core.untrusted import tomllib

# Two classes per pixel; the score is minus the error against what the dense network says.
CODE = """
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

Path("ran").touch()


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(12, 12, 3, padding=1), nn.ReLU()),
        nn.Conv2d(12, 2, 3, padding=1),
    )


def images():
    return TensorDataset(torch.linspace(-1, 1, 60 * 64).view(60, 1, 8, 8))


def agreement(model):
    pixels = images().tensors[0]
    with torch.no_grad():
        return -float((model(pixels) - network()(pixels)).abs().mean())


number = 3
"""
SEARCH = (
    "search --model net.py:network --data net.py:images --config small.toml --budget flops=0.6 "
    "--strategy random --trials 2 --seed 1 --output out"
)


@pytest.fixture
def segmentation(cli):
    Path("net.py").write_text(CODE)
    done = cli(*SEARCH.split(), "--evaluate", "net.py:agreement")
    assert done.status == 0, done.err
    return cli


def config(run: str) -> dict:
    return tomllib.loads(Path(run, "config.toml").read_text())


DISTANCE = """

def apart(outputs, dense):
    Path("asked").touch()
    return (outputs - dense).abs().mean()
"""


def test_without_a_score_outputs_are_compared(cli) -> None:
    Path("net.py").write_text(CODE + DISTANCE)
    assert cli(*SEARCH.split()).status == 0
    score = json.loads(Path("out/result.json").read_text())["score"]
    assert score["dense"] == 0.0 and score["pruned"] < 0.0 and score["split"] == "selection"
    report = json.loads(cli("evaluate", "out", "--json").out)
    assert report["dense"]["score"] == 0.0 and report["pruned"]["score"] < 0.0
    assert report["samples"] and report["kl"] is None
    done = cli("evaluate", "out")
    assert done.status == 0 and "split" in done.out and "your own" not in done.out


def test_a_distance_of_the_users_own_is_remembered(cli) -> None:
    Path("net.py").write_text(CODE + DISTANCE)
    done = cli(*SEARCH.split(), "--distance", "net.py:apart")
    assert done.status == 0 and Path("asked").exists(), done.err
    assert config("out")["distance"] == f"{Path('net.py').absolute()}:apart"
    Path("asked").unlink()
    assert cli("evaluate", "out", "--json").status == 0 and Path("asked").exists()
    other = SEARCH.replace("--output out", "--output other")
    done = cli(*other.split(), "--distance", "net.py:apar")
    assert done.status == 2 and "'apart'" in done.err and not Path("other").exists()


def test_the_run_remembers_it(segmentation) -> None:
    score = json.loads(Path("out/result.json").read_text())["score"]
    assert score["dense"] == 0.0 and score["pruned"] < 0.0
    assert (score["metric"], score["samples"], score["split"]) == ("custom", None, "user")
    assert config("out")["evaluate"] == f"{Path('net.py').absolute()}:agreement"

    resumed = segmentation("search", "--resume", "--output", "out", "--trials", "3")
    assert resumed.status == 0, resumed.err
    assert json.loads(Path("out/result.json").read_text())["search"]["trials"] == 3

    again = segmentation("search", "--config", "out/config.toml", "--output", "again")
    assert again.status == 0 and config("again")["evaluate"] == config("out")["evaluate"]

    recalled = segmentation(*"search --from out --budget flops=0.8 --output recalled".split())
    assert recalled.status == 0, recalled.err
    assert config("recalled")["evaluate"] == config("out")["evaluate"]


def test_evaluating_the_run(segmentation) -> None:
    report = json.loads(segmentation("evaluate", "out", "--json").out)
    score = json.loads(Path("out/result.json").read_text())["score"]
    assert (report["dense"]["score"], report["pruned"]["score"]) == (0.0, score["pruned"])
    assert report["kl"] is report["samples"] is report["dense"]["top1"] is None
    done = segmentation("evaluate", "out")
    assert done.status == 0 and "score" in done.out and "your own evaluate" in done.out
    done = segmentation("evaluate", "out", "--split", "test")
    assert done.status == 2 and "leave out --split" in done.err
    done = segmentation("evaluate", "out", "--evaluate", "net.py:nothing")
    assert done.status == 2 and "'net.py:nothing'" in done.err and len(done.err.splitlines()) == 1


def test_a_classifier_can_be_scored_so_too(cli, demo_run) -> None:
    Path("score.py").write_text(
        "def parameters(model):\n    return -sum(p.numel() for p in model.parameters())\n"
    )
    command = ("evaluate", str(demo_run[0]), "--evaluate", "score.py:parameters", "--json")
    report = json.loads(cli(*command).out)
    assert report["pruned"]["score"] > report["dense"]["score"]
    # Without weights that a BN left behind: what is counted is what is handed over.
    assert -report["dense"]["score"] == report["dense"]["params"]


def test_a_strangers_score_is_not_run(segmentation) -> None:
    text = Path("out/config.toml").read_text()
    Path("net.py").rename("theirs.py")
    shutil.copytree("out", "given")
    Path("given/config.toml").write_text(text.replace("net.py:", "theirs.py:"))
    Path("ran").unlink()
    Path("mine.py").write_text(CODE.replace('Path("ran")', 'Path("mine")'))
    named = ("--model", "mine.py:network", "--data", "mine.py:images")
    for command in (
        ("evaluate", "given", *named),
        (*"search --from given --budget flops=0.7 --output new".split(), *named),
        ("search", "--config", "given/config.toml", "--output", "new", *named),
    ):
        done = segmentation(*command)
        assert done.status == 2 and "evaluate '" in done.err and "--trust" in done.err
        assert not Path("ran").exists() and not Path("new").exists()
    assert segmentation("evaluate", "given", *named, "--evaluate", "mine.py:agreement").status == 0
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("net.py:agreemnt", ["'net.py:agreemnt'", "'agreement'"]),
        ("net.py:number", ["'net.py:number'", "int is not callable"]),
        ("nowhere.py:score", ["'nowhere.py:score'", "no such file"]),
        ("score", ["'score'", "path/to/file.py:NAME"]),
    ],
)
def test_mistakes(cli, spec: str, words: list[str]) -> None:
    Path("net.py").write_text(CODE)
    done = cli(*SEARCH.split(), "--evaluate", spec)
    assert done.status == 2 and len(done.err.splitlines()) == 1
    assert all(word in done.err for word in words) and not Path("out").exists()

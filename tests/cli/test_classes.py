"""Class folders that are not just a network's outputs in their order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoprune.core.records import tomllib

NETWORK = """
import torch
from torch import nn

def make():
    first, last = nn.Conv2d(3, 12, 1, bias=False), nn.Linear(12, 3, bias=False)
    first.weight.data[:] = torch.eye(3).repeat(4, 1)[:, :, None, None]
    last.weight.data[:] = torch.eye(3).repeat(1, 4)
    return nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
"""
BLUE, GREEN = (0, 0, 200), (0, 200, 0)
SEARCH = (
    *("search", "--model", "net.py:make", "--data", "imagefolder:data", "--normalize", "none"),
    *("--config", "small.toml", "--budget", "flops=0.7", "--strategy", "uniform"),
    *("--output", "out"),
)


@pytest.fixture
def colours(cli):
    """A network that tells red, green and blue apart, and images of two of them."""
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("torchvision")
    Path("net.py").write_text(NETWORK)
    Path("names.txt").write_text("red light\ngreen light\nblue light\n")
    for split, count in (("train", 12), ("test", 6)):
        for name, colour in (("blue", BLUE), ("green", GREEN)):
            Path("data", split, name).mkdir(parents=True)
            for i in range(count):
                image.new("RGB", (30, 30), colour).save(f"data/{split}/{name}/{i}.png")
    return cli


def test_a_file_of_class_names_goes_with_the_run(colours, tmp_path, monkeypatch) -> None:
    done = colours(*SEARCH, "--trials", "1", "--classes", "names.txt")
    assert done.status == 0, done.err
    score = json.loads(Path("out", "result.json").read_text())["score"]
    assert (score["dense"], score["samples"], score["split"]) == (1.0, 12, "test")
    config = tomllib.loads(Path("out", "config.toml").read_text())
    assert config["classes"] == str(tmp_path / "names.txt")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = colours("evaluate", "../out", "--json")
    assert done.status == 0 and json.loads(done.out)["dense"]["top1"] == 1.0
    done = colours("search", "--resume", "--output", "../out", "--trials", "2")
    assert done.status == 0, done.err
    recall = ("search", "--from", "../out", "--budget", "flops=0.8", "--output", "recalled")
    done = colours(*recall, "--recover", "off")
    assert done.status == 0, done.err
    assert tomllib.loads(Path("recalled", "config.toml").read_text())["classes"]


def test_other_names_and_other_data_for_an_evaluation(colours) -> None:
    assert colours(*SEARCH, "--trials", "1", "--classes", "names.txt").status == 0
    Path("swapped.txt").write_text("red\nblue\ngreen\n")
    done = colours("evaluate", "out", "--json", "--classes", "swapped.txt")
    assert json.loads(done.out)["dense"]["top1"] == 0.0
    assert done.err.startswith("Warning: the dense network is right on 0.0% of 12 images")
    Path("flat").mkdir()
    Path("data/train/blue/0.png").rename("flat/blue.png")
    done = colours("evaluate", "out", "--json", "--data", "imagefolder:flat")
    assert done.status == 0 and json.loads(done.out)["dense"]["top1"] is None
    Path("own.py").write_text(
        "import torch\n"
        "def images():\n"
        "    return torch.utils.data.TensorDataset(torch.rand(4, 3, 224, 224))\n"
    )
    done = colours("evaluate", "out", "--json", "--data", "own.py:images")
    assert done.status == 0 and json.loads(done.out)["dense"]["top1"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the data has 2 classes but the network has 3 outputs"),
        (("--classes", "four.txt"), "the data has 4 classes but the network has 3 outputs"),
        (("--classes", "two.txt"), "no line names the class folder 'blue'; write a class name"),
        (("--classes", "none.txt"), "no such classes file: "),
        (("--classes", "data"), "no such classes file: 'data'"),
        (("--classes", "names.txt", "--data", "digits"), "data 'digits' has none"),
    ],
)
def test_classes_that_cannot_be_meant(colours, arguments: tuple[str, ...], message: str) -> None:
    Path("four.txt").write_text("red\ngreen\nblue\nblack\n")
    Path("two.txt").write_text("red\ngreen\n")
    done = colours(*SEARCH, "--trials", "1", *arguments)
    errors = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    assert done.status == 2 and len(errors) == 1 and message in errors[0]
    assert "Traceback" not in done.err and not Path("out").exists()


def test_images_without_labels_are_data(colours) -> None:
    Path("flat").mkdir()
    for name in ("blue", "green"):
        for i in range(12):
            Path(f"data/train/{name}/{i}.png").rename(f"flat/{name}{i}.png")
    done = colours(*SEARCH, "--trials", "1", "--data", "imagefolder:flat")
    assert done.status == 0, done.err
    score = json.loads(Path("out", "result.json").read_text())["score"]
    assert score["dense"] is None and score["kl"] is not None

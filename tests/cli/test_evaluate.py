from __future__ import annotations

import json
from pathlib import Path

import pytest

import autoprune
from autoprune.data import load_splits
from autoprune.demo.network import load_demo


@pytest.fixture
def run(demo_run) -> str:
    return str(demo_run[0])


def test_table_and_json(run: str, cli) -> None:
    done = cli("evaluate", run)
    assert done.status == 0 and done.err == ""
    for word in ("top-1", "loss", "MACs", "params", "latency", "test split, 300 samples"):
        assert word in done.out
    report = json.loads(cli("evaluate", run, "--json").out)
    result = json.loads(Path(run, "result.json").read_text())
    for name in ("dense", "pruned"):
        assert report[name]["top1"] == result["score"][name]
        assert report[name]["flops"] == result["costs"][name]["flops"]
        assert report[name]["latency_ms"] > 0


def test_splits(run: str, cli) -> None:
    samples = {
        split: json.loads(cli("evaluate", run, "--json", "--split", split).out)["samples"]
        for split in ("train", "val", "test")
    }
    assert samples == {"train": 1197, "val": 300, "test": 300}
    done = cli("evaluate", run, "--split", "tset")
    assert done.status == 2 and "did you mean 'test'?" in done.err


def test_another_network(run: str, cli) -> None:
    done = cli("evaluate", run, "--model", "torchvision:squeezenet1_1")
    assert done.status == 2 and len(done.err.splitlines()) == 1


def test_run_made_from_python(cli) -> None:
    few = {"calibration_samples": 64, "search_samples": 64, "selection_samples": 64}
    data = load_splits("digits")
    autoprune.search(
        load_demo(), data=data, budget="flops=0.5", trials=1, strategy="uniform", output="py", **few
    )
    done = cli("evaluate", "py")
    assert done.status == 2 and "--model SPEC and --data SPEC" in done.err
    assert cli("evaluate", "py", "--model", "demo", "--data", "digits").status == 0
    done = cli("search", "--resume", "--output", "py")
    assert done.status == 2 and "from Python" in done.err

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

import autoprune
from autoprune.data import load_splits
from autoprune.models.demo.network import load_demo
from autoprune.study.run_directory import RunDirectory


@pytest.fixture
def run(demo_run) -> str:
    return str(demo_run[0])


def test_table_and_json(run: str, cli) -> None:
    done = cli("evaluate", run)
    assert done.status == 0 and done.err == ""
    for word in ("top-1", "loss", "MACs", "params", "latency", "test split, 300 samples"):
        assert word in done.out
    assert "latency measured with torch on" in done.out and "(1 thread), batch 1" in done.out
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


def test_a_run_is_known_from_any_folder(cli, demo_run, tmp_path, monkeypatch) -> None:
    (tmp_path / "net.py").write_text("from autoprune.models.demo import digits_cnn\n")
    save_file(load_demo().state_dict(), tmp_path / "demo.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    for name in ("images", "unseen"):
        np.savez(tmp_path / f"{name}.npz", x=images, y=np.arange(40) % 10)
    command = "search --model net.py:digits_cnn --weights demo.safetensors --output out --trials 1"
    command += " --data npz:images.npz;test=unseen.npz --budget flops=0.5 --strategy uniform"
    assert cli(*command.split()).status == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = cli("evaluate", "../out", "--json")
    assert done.status == 0 and json.loads(done.out)["samples"] == 40
    done = cli("search", "--resume", "--output", "../out", "--time", "1h")
    assert done.status == 0 and "is finished" in done.err and "top-1" in done.out


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


def test_a_kits_results_wait_for_whoever_writes_the_run(cli, demo_run) -> None:
    shutil.copytree(demo_run[0], "out")
    before = Path("out", "result.json").read_bytes()
    with RunDirectory("out").held():
        done = cli("evaluate", "out", "--from-kit", "results.json")
    assert done.status == 2 and "'out' is in use by process" in done.err
    assert Path("out", "result.json").read_bytes() == before

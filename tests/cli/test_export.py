"""`autoprune export`: what it writes, shows and records, and what it refuses."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch

import autoprune
from autoprune.data import load_splits
from autoprune.models.demo import load_demo
from autoprune.study.run_directory import RunDirectory

EXPORTERS = """
from pathlib import Path

import torch

from autoprune.exporters.pt2 import Pt2Exporter


class Wrong(Pt2Exporter):
    def open(self, path, threads):
        run = super().open(path, threads)
        return lambda inputs: [one + 1 for one in run(inputs)]


class Missing(Pt2Exporter):
    name, extra, modules = "missing", "openvino", ("no_such_package",)
"""


@pytest.fixture
def run(cli, demo_run, tmp_path: Path) -> Path:
    """A finished run that may be changed, and a file of exporters."""
    shutil.copytree(demo_run[0], tmp_path / "run")
    (tmp_path / "exporters.py").write_text(EXPORTERS)
    return tmp_path / "run"


@pytest.fixture
def refused(cli, run: Path):
    """Assert that an export ends in one line with these words, and changes nothing."""

    def check(command: str, *words: str) -> None:
        before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
        done = cli("export", *command.split())
        error = done.err.splitlines()[-1]
        assert (done.status, done.out) == (2, "") and error.startswith("Error: ")
        assert "Traceback" not in done.err
        for word in words:
            assert word in error, error
        after = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
        assert after == before
        assert not (run / "export").exists()

    return check


def entries(run: Path) -> list[dict]:
    return json.loads((run / "result.json").read_text())["export"]


def test_a_file_that_pytorch_reads_alone(cli, run: Path) -> None:
    done = cli("export", "run", "--format", "pt2")
    assert done.status == 0, done.err
    for word in ("size", "latency", "largest error", "torch on", "run/export/pruned.pt2"):
        assert word in done.out
    module = torch.export.load(run / "export" / "pruned.pt2").module()
    images = load_splits("digits").train.take(range(5)).inputs
    small = autoprune.load_pruned(load_demo(), run)
    for count in (1, 5):
        assert torch.allclose(module(images[:count])[0], small(images[:count]), atol=1e-4)
    (entry,) = entries(run)
    assert (entry["format"], entry["int8"], entry["batch"]) == ("pt2", False, None)
    assert entry["file"] == "export/pruned.pt2"
    assert entry["bytes"] == (run / entry["file"]).stat().st_size < entry["dense_bytes"]
    assert entry["latency_ms"] > 0 and entry["dense_latency_ms"] > 0
    assert entry["max_error"] < 1e-3 and entry["threads"] == 1
    assert not list(run.glob("export/.*"))


def test_another_file_replaces_the_entry(cli, run: Path) -> None:
    assert cli("export", "run", "--format", "pt2").status == 0
    done = cli("export", "run", "--format", "pt2")
    assert done.status == 2 and "is there already: remove it or choose another" in done.err
    done = cli("export", "run", "--format", "pt2", "--output", "new/small.pt2", "--json")
    assert done.status == 0
    (entry,) = entries(run)
    assert entry == json.loads(done.out)
    assert entry["file"] == Path("new/small.pt2").absolute().as_posix()
    assert Path("new/small.pt2").is_file()


def test_onnx_int8(cli, run: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    import onnxruntime

    done = cli("export", "run", "--int8")
    assert done.status == 0, done.err
    for word in ("pruned int8", "top-1", "int8 agrees with float on", "test split, 300 samples"):
        assert word in done.out
    (entry,) = entries(run)
    slower = entry["latency_ms"] > entry["float_latency_ms"]
    assert ("int8 is slower than float" in done.out) == slower
    assert entry["bytes"] < entry["float_bytes"] < entry["dense_bytes"]
    assert entry["top1"] > entry["float_top1"] - 0.05 and entry["agreement"] > 0.95
    file = str(run / "export" / "pruned-int8.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (first,), (last,) = session.get_inputs(), session.get_outputs()
    assert (first.name, first.shape) == ("input", ["batch", 1, 8, 8])
    assert (last.name, last.shape) == ("output", ["batch", 10])


def test_openvino_is_a_pair_of_files(cli, run: Path) -> None:
    for package in ("openvino", "nncf", "onnx"):
        pytest.importorskip(package)
    done = cli("export", "run", "--format", "openvino", "--int8", "--output", "small", "--json")
    assert done.status == 0, done.err
    entry = json.loads(done.out)
    assert entry["file"] == Path("small.xml").absolute().as_posix()
    assert entry["bytes"] == sum(Path(f"small{one}").stat().st_size for one in (".xml", ".bin"))
    assert entry["backend"] == "openvino" and entry["agreement"] > 0.95


def test_names_and_places(refused, run: Path, tmp_path: Path) -> None:
    refused("run --format onx", "unknown export format 'onx'", "did you mean 'onnx'?")
    refused("run --format pt2 --int8", "int8 is not supported yet", "choose onnx or openvino")
    refused("run --format exporters.py:Missing", "'no_such_package'", "autoprune[openvino]")
    refused("run --format exporters.py:Path", "exporters.py:Path")
    refused("nothing", "'nothing' holds no run")
    refused("run --format pt2 --output run", "is a directory")
    refused("run --format pt2 --output run/policy.json/a.pt2", "is not a directory")


def test_a_run_without_a_result(refused, run: Path) -> None:
    (run / "result.json").unlink()
    refused("run --format pt2", "is not finished", "--resume")


def test_a_run_of_another_network(refused) -> None:
    refused("run --format pt2 --model torchvision:squeezenet1_1", "another network than SqueezeNet")


def test_a_run_that_is_written(refused, run: Path) -> None:
    with RunDirectory(run).held():
        refused("run --format pt2", "is in use by process")


def test_a_file_that_computes_something_else(refused) -> None:
    refused("run --format exporters.py:Wrong", "differ from PyTorch's by up to", "is tolerated")


def test_a_full_disk(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*places: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunDirectory, "save_result", full)
    refused("run --format pt2", "the disk is full")


def test_code_in_a_run_is_not_imported_from_python(run: Path) -> None:
    config = run / "config.toml"
    config.write_text(config.read_text().replace('data = "digits"', 'data = "mine.py:data"'))
    with pytest.raises(autoprune.AutopruneError, match=r"names code for its data.*give data"):
        autoprune.export(load_demo(), run, format="pt2")
    entry = autoprune.export(load_demo(), run, format="pt2", data=load_splits("digits"))
    assert entry["format"] == "pt2"

"""A kit, end to end: written here, run by a Python that cannot import PyTorch, read here again."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.model import LatencyCost
from autoprune.errors import ModelError, TableError, UsageError
from autoprune.profiling.backends.registry import make_backend
from autoprune.structure.tracing.trace import trace

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from autoprune.profiling.backends.onnx import check_onnx
from autoprune.profiling.backends.portable import default_threads, open_session
from autoprune.profiling.kit.read import read_kit
from autoprune.profiling.kit.runner import portion
from autoprune.profiling.kit.write import write_kit
from autoprune.profiling.subject import Subject

IMAGE = torch.randn(1, 3, 8, 8)
CONDITIONS = Conditions(backend="onnxruntime")


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(network(), trace(network(), IMAGE), IMAGE)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 10, 1)
    ).eval()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, subject: Subject) -> Path:
    """What the kit's runner writes where neither PyTorch nor autoprune can be imported.

    AUTOPRUNE_KIT_PYTHON names the Python of an environment that lacks them; without it, this one
    runs with both blocked.
    """
    folder = tmp_path_factory.mktemp("kit") / "kit"
    assert write_kit(folder, subject, CONDITIONS) == len(list((folder / "models").iterdir()))
    assert {path.name for path in folder.iterdir()} == {
        "README.txt", "models", "portable.py", "run.py", "tasks.json"
    }  # fmt: skip
    block = "import sys; sys.modules['torch'] = sys.modules['autoprune'] = None; "
    run = "import runpy; runpy.run_path('run.py', run_name='__main__')"
    python = os.environ.get("AUTOPRUNE_KIT_PYTHON", sys.executable)
    done = subprocess.run(
        [python, "-c", block + run], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "results.jsonl"


def test_a_table_comes_back(results: Path, subject: Subject) -> None:
    table = read_kit(results, subject, CONDITIONS)
    cost = LatencyCost(subject.structure, table)
    assert 0 < cost.total((24,)) < 100
    assert table.conditions == CONDITIONS
    assert len(table.correction.networks) > 5
    assert table.origin.device == make_backend(CONDITIONS).device_name()
    assert table.origin.versions["onnxruntime"]


def test_a_kit_in_half_precision(subject: Subject, tmp_path: Path) -> None:
    conditions = Conditions(backend="onnxruntime", dtype="float16")
    write_kit(tmp_path / "kit", subject, conditions)
    done = ran(tmp_path / "kit")
    assert done.returncode == 0, done.stderr
    table = read_kit(tmp_path / "kit" / "results.jsonl", subject, conditions)
    assert table.conditions.dtype == "float16"


def test_threads_that_are_left_to_the_device(subject: Subject, tmp_path: Path) -> None:
    conditions = Conditions(backend="onnxruntime", threads=None)
    write_kit(tmp_path / "kit", subject, conditions)
    assert (
        json.loads((tmp_path / "kit" / "tasks.json").read_text())["conditions"]["threads"] is None
    )
    done = ran(tmp_path / "kit")
    assert done.returncode == 0, done.stderr
    table = read_kit(tmp_path / "kit" / "results.jsonl", subject, conditions)
    assert table.conditions.threads == default_threads()


@pytest.mark.parametrize(
    ("described", "usable", "cores"),
    [
        ([(0, 0), (0, 1), (0, 0), (0, 1)], 4, 2),  # two threads of each core
        ([(0, 0), (0, 1), (1, 0), (1, 1)], 4, 4),  # two processors
        ([(0, 0), (0, 1), (0, 2), (0, 3)], 2, 2),  # a container that may use half
        ([], 3, 3),  # a system that does not say
    ],
)
def test_onnx_runtime_takes_physical_cores(
    described: list[tuple[int, int]], usable: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(f"physical id\t: {a}\nsiblings\t: 4\ncore id\t\t: {b}\n\n" for a, b in described)
    monkeypatch.setattr(Path, "read_text", lambda *_: text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable)), raising=False)
    assert default_threads() == cores


def test_a_network_that_cannot_be_exported_leaves_nothing_behind(
    subject: Subject, tmp_path: Path
) -> None:
    class Bessel(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x)

    broken = nn.Sequential(*network(), Bessel()).eval()
    with pytest.raises(ModelError, match="cannot be exported to ONNX"):
        write_kit(tmp_path / "kit", Subject(broken, trace(broken, IMAGE), IMAGE), CONDITIONS)
    assert not (tmp_path / "kit").exists()


def copied(results: Path, kit: Path, written: str) -> subprocess.CompletedProcess[str]:
    """Run the kit in another folder, where there are some results."""
    kit.mkdir()
    for name in ("tasks.json", "models"):
        (kit / name).symlink_to(results.parent / name)
    # The runner looks beside itself: copies, not links, stand in the new folder.
    for name in ("run.py", "portable.py"):
        (kit / name).write_text((results.parent / name).read_text())
    (kit / "results.jsonl").write_text(written)
    return ran(kit)


def ran(kit: Path) -> subprocess.CompletedProcess[str]:
    """Do what the kit's README says."""
    command = [sys.executable, "run.py"]
    return subprocess.run(command, cwd=kit, capture_output=True, text=True, check=False)


def test_an_interrupted_runner_goes_on(results: Path, tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    lines = results.read_text().splitlines(keepends=True)
    done = copied(results, kit, "".join(lines[:-3]) + lines[-3][:20])
    assert done.returncode == 0 and "s left" in done.stderr
    again = (kit / "results.jsonl").read_text().splitlines(keepends=True)
    assert again[:-3] == lines[:-3] and len(again) == len(lines)


def test_networks_of_other_widths_do_not_count(
    results: Path, subject: Subject, tmp_path: Path
) -> None:
    lines = results.read_text().splitlines()
    (other := tmp_path / "results.jsonl").write_text(
        "\n".join([*lines, *(lines[-1].replace("[2]", text) for text in ("[1, 2]", "[]", "[999]"))])
    )
    assert "[2]" in lines[-1]
    tables = [read_kit(path, subject, CONDITIONS) for path in (results, other)]
    assert tables[0].correction == tables[1].correction


def test_layers_and_networks_have_references_of_their_own(results: Path) -> None:
    tasks = [
        *({"file": f"{i}", "layer": {}} for i in range(19)),
        *({"file": f"n{i}", "network": []} for i in range(10)),
    ]
    found, done = [], 0
    while done < len(tasks):
        beside, some = portion(tasks, done)
        assert beside["file"] == ("0" if "layer" in some[0] else "n0")
        found.append([task["file"] for task in some])
        done += len(some)
    assert list(itertools.chain(*found)) == [task["file"] for task in tasks]
    assert list(map(len, found)) == [8, 8, 3, 8, 2]
    beside, some = portion(tasks, 5)  # a portion that was interrupted
    assert (beside["file"], some[0]["file"], len(some)) == ("0", "5", 8)
    lines = [json.loads(line) for line in results.read_text().splitlines()[1:]]
    for kind in ("layer", "network"):
        first, *rest = (line for line in lines if kind in line)
        assert first["ms"] == first["beside_ms"] and all(line["beside_ms"] > 0 for line in rest)


def test_results_of_another_kit_are_not_continued(results: Path, tmp_path: Path) -> None:
    lines = results.read_text().splitlines(keepends=True)
    other = edited(lambda head: head["subject"].update(network="0" * 16))(lines)
    for number, written in enumerate(
        ("\n".join(other), "[]\n", "text\n", "".join([*lines, "{}\n"]))
    ):
        done = copied(results, tmp_path / str(number), written)
        assert done.returncode == 1 and "is of another kit" in done.stderr
        assert (tmp_path / str(number) / "results.jsonl").read_text() == written


def test_a_kit_for_a_device_that_this_host_lacks(subject: Subject, tmp_path: Path) -> None:
    conditions = Conditions(backend="onnxruntime", device="RoadExecutionProvider")
    check_onnx(conditions)
    with pytest.raises(UsageError, match="no provider 'RoadExecutionProvider' here"):
        make_backend(conditions)
    write_kit(tmp_path / "kit", subject, conditions)
    done = subprocess.run(
        [sys.executable, "run.py"],
        cwd=tmp_path / "kit",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "no RoadExecutionProvider here" in done.stderr
    assert not (tmp_path / "kit" / "results.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "road"}, "device 'road' is not one of ONNX Runtime's"),
        ({"dtype": "bfloat16"}, "float32 or float16 with ONNX"),
        ({"memory_format": "channels_last"}, "leave out --channels-last"),
    ],
)
def test_what_no_device_can_do(options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_onnx(Conditions(backend="onnxruntime", **options))


def test_another_device_never_stands_in() -> None:
    """ONNX Runtime falls back to the CPU where a provider does not start."""

    class Session:
        def __init__(self, model: bytes, options: object, providers: list[str]) -> None: ...

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    library = SimpleNamespace(SessionOptions=MagicMock, InferenceSession=Session)
    assert open_session(library, b"", 1, "CPUExecutionProvider")
    with pytest.raises(RuntimeError, match="CUDAExecutionProvider does not start"):
        open_session(library, b"", 1, "CUDAExecutionProvider")


def cut(count: int) -> Callable[[list[str]], list[str]]:
    return lambda lines: [*lines[:1], *lines[1 + count :]]


def added(**line: Any) -> Callable[[list[str]], list[str]]:
    return lambda lines: [*lines, json.dumps(line)]


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[list[str]], list[str]]:
    def edit(lines: list[str]) -> list[str]:
        head = json.loads(lines[0])
        change(head)
        return [json.dumps(head), *lines[1:]]

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (cut(3), "lack conv2d"),
        (cut(1), "lack "),
        (added(network=[1, 2, 3], ms=1, spread_ms=0, repeats=7), "cannot read.*beside_ms"),
        (added(network=[24], ms=9e9, spread_ms=0, repeats=7, beside_ms=1e-9), "any device's speed"),
        (lambda lines: lines[:-2], "lack 2 whole networks.*goes on where it was"),
        (
            edited(lambda head: head["subject"].update(network="0" * 16)),
            "another network, input size",
        ),
        (
            edited(lambda head: head["subject"].update(input=[3, 9, 9])),
            "another network, input size",
        ),
        (edited(lambda head: head.pop("subject")), "another network, input size"),
        (edited(lambda head: head.update(device=None)), "cannot read.*device"),
        (lambda lines: [*lines, "[1]"], "cannot read.*not a measurement"),
        (lambda lines: [], "cannot read the kit's results"),
        (lambda lines: [*lines, "{"], "cannot read the kit's results"),
        (
            lambda lines: [*lines, '{"network": [1], "ms": -1, "spread_ms": 0, "repeats": 7}'],
            "ms: -1",
        ),
        (edited(lambda head: head.update(version=7)), "no results of a kit of version 2"),
        (edited(lambda head: head["conditions"].update(batch=4)), "the same options, or the same"),
    ],
)
def test_results_that_cannot_be_used(
    results: Path,
    subject: Subject,
    tmp_path: Path,
    edit: Callable[[list[str]], list[str]],
    words: str,
) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(edit(results.read_text().splitlines())))
    with pytest.raises(TableError, match=words):
        read_kit(path, subject, CONDITIONS)


def test_a_kit_is_not_mixed_with_other_files(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(UsageError, match="is not empty"):
        write_kit(tmp_path, subject, CONDITIONS)

"""A kit, end to end: written here, run by a Python that cannot import PyTorch, read here again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.cost.latency.backends import Backend, Conditions, make_backend
from autoprune.cost.latency.model import LatencyCost
from autoprune.errors import TableError, UsageError
from autoprune.structure.groups import Structure
from autoprune.structure.trace import trace

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from autoprune.cost.latency.kit import read_kit, write_kit

IMAGE = torch.randn(1, 3, 8, 8)
CONDITIONS = Conditions(backend="onnxruntime")


@pytest.fixture(scope="module")
def structure() -> Structure:
    return trace(network(), IMAGE)


@pytest.fixture(scope="module")
def backend() -> Backend:
    return make_backend(CONDITIONS)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 10, 1)
    ).eval()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, structure: Structure) -> Path:
    """What the kit's runner writes where neither PyTorch nor autoprune can be imported.

    AUTOPRUNE_KIT_PYTHON names the Python of an environment that lacks them; without it, this one
    runs with both blocked.
    """
    folder = tmp_path_factory.mktemp("kit") / "kit"
    assert write_kit(folder, network(), structure, IMAGE, CONDITIONS) == len(
        list((folder / "models").iterdir())
    )
    assert {path.name for path in folder.iterdir()} == {
        "README.txt", "models", "run.py", "tasks.json"
    }  # fmt: skip
    block = "import sys; sys.modules['torch'] = sys.modules['autoprune'] = None; "
    run = "import runpy; runpy.run_path('run.py', run_name='__main__')"
    python = os.environ.get("AUTOPRUNE_KIT_PYTHON", sys.executable)
    done = subprocess.run(
        [python, "-c", block + run], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "results.jsonl"


def test_a_table_comes_back(results: Path, structure: Structure, backend: Backend) -> None:
    table = read_kit(results, structure, backend)
    cost = LatencyCost(structure, table)
    assert 0 < cost.total((24,)) < 100
    assert table.conditions == CONDITIONS
    assert len(table.correction.networks) > 5
    assert table.origin.device and table.origin.versions["onnxruntime"]


def test_an_interrupted_runner_goes_on(results: Path, tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    kit.mkdir()
    for name in ("run.py", "tasks.json", "models"):
        (kit / name).symlink_to(results.parent / name)
    lines = results.read_text().splitlines(keepends=True)
    (kit / "results.jsonl").write_text("".join(lines[:-3]) + lines[-3][:20])
    # The runner looks beside itself: a copy, not a link, stands in the new folder.
    code = (kit / "run.py").read_text()
    (kit / "run.py").unlink()
    (kit / "run.py").write_text(code)
    subprocess.run([sys.executable, "run.py"], cwd=kit, capture_output=True, check=True)
    again = (kit / "results.jsonl").read_text().splitlines(keepends=True)
    assert again[:-3] == lines[:-3] and len(again) == len(lines)


def cut(count: int) -> Callable[[list[str]], list[str]]:
    return lambda lines: [*lines[:1], *lines[1 + count :]]


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[list[str]], list[str]]:
    def edit(lines: list[str]) -> list[str]:
        head = json.loads(lines[0])
        change(head)
        return [json.dumps(head), *lines[1:]]

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (cut(3), "lack the layer conv2d"),
        (lambda lines: [], "cannot read the kit's results"),
        (lambda lines: [*lines, "{"], "cannot read the kit's results"),
        (lambda lines: [*lines, '{"network": [1], "ms": -1, "spread_ms": 0, "repeats": 7}'], "-1"),
        (edited(lambda head: head.update(version=7)), "no results of a kit of version 1"),
        (edited(lambda head: head["conditions"].update(batch=4)), "same options as to --kit"),
    ],
)
def test_results_that_cannot_be_used(
    results: Path,
    structure: Structure,
    backend: Backend,
    tmp_path: Path,
    edit: Callable[[list[str]], list[str]],
    words: str,
) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(edit(results.read_text().splitlines())))
    with pytest.raises(TableError, match=words):
        read_kit(path, structure, backend)


def test_a_kit_is_not_mixed_with_other_files(structure: Structure, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(UsageError, match="is not empty"):
        write_kit(tmp_path, network(), structure, IMAGE, CONDITIONS)

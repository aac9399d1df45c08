"""What a search leaves behind, and what is loaded again from there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from searches import FEW, TINY, Notes, classifier, dataset, inputs_of, outputs
from torch import Tensor, nn

import autoprune
from autoprune.core.progress import Progress
from autoprune.data import Splits
from autoprune.errors import ModelError, RunError
from autoprune.models.demo import digits_cnn, load_demo


def test_files(demo: autoprune.Run) -> None:
    names = {path.name for path in demo.path.iterdir()}
    files = {"config.toml", "groups.json", "policy.json", "pruned.safetensors", "result.json"}
    assert names == files | {"run.log", "study.db"}
    assert json.loads((demo.path / "result.json").read_text()) == demo.result


NUMBER = (int, float)
NOTHING = type(None)
SHAPE: dict[str, Any] = {
    "version": int,
    "strategy": str,
    "budget": str,
    "reward": str,
    "seed": int,
    "searched_by": str,
    "agent_from": NOTHING,
    "recovery": NOTHING,
    "costs": {
        "dense": {"flops": int, "params": int, "latency_ms": float, "memory_bytes": int},
        "pruned": {"flops": int, "params": int, "latency_ms": float, "memory_bytes": int},
        "latency": {"predicted_ms": NOTHING, "measured_ms": float, "backend": str, "device": str},
    },
    "score": {
        "metric": str,
        "dense": float,
        "pruned": float,
        "recovered": NOTHING,
        "split": str,
        "samples": int,
        "kl": float,
        "loss": float,
    },
    "search": {
        "trials": int,
        "evaluations": int,
        "image_forwards": int,
        "failed": int,
        "seconds": NUMBER,
        "best_value": float,
        "signal_split": str,
    },
    "seconds": {
        **dict.fromkeys(["structure", "statistics", "paths", "judge", "surgery"], NUMBER),
        **dict.fromkeys(["batchnorm", "scoring", "strategy", "finalists"], NUMBER),
        "recovery": float,
    },
    "widths": {},
    "frontier": list,
}


def check_shape(found: Any, shape: Any, where: str) -> None:
    """Every documented key is there, with its type; keys may be added."""
    if isinstance(shape, dict):
        assert shape.keys() <= found.keys(), where
        for key, inner in shape.items():
            check_shape(found[key], inner, f"{where}.{key}")
    else:
        assert isinstance(found, shape), f"{where}: {found!r}"


def test_result_is_as_documented(demo: autoprune.Run) -> None:
    check_shape(demo.result, SHAPE, "result")
    search, score, costs = (demo.result[key] for key in ("search", "score", "costs"))
    assert (search["trials"], search["failed"], search["signal_split"]) == (3, 0, "val")
    assert search["evaluations"] >= 3 and search["image_forwards"] > 0
    assert (score["metric"], score["split"], score["samples"]) == ("top1", "test", 300)
    assert score["dense"] > 0.9 and 0 <= score["pruned"] <= 1 and score["kl"] > 0
    assert costs["pruned"]["flops"] <= 0.5 * costs["dense"]["flops"]
    assert costs["latency"]["measured_ms"] == costs["pruned"]["latency_ms"] > 0
    for kept, size in demo.result["widths"].values():
        assert 1 <= kept <= size
    for entry in demo.result["frontier"]:
        assert entry.keys() == {"costs", "kl", "custom", "widths"}
        assert entry["widths"].keys() == demo.result["widths"].keys()


def test_costs_and_scores_are_those_of_the_model(
    demo: autoprune.Run, digits: Splits, count_macs: Callable[[nn.Module, Tensor], float]
) -> None:
    inputs = inputs_of(digits, 300)
    costs, score = demo.result["costs"]["pruned"], demo.result["score"]
    assert costs["flops"] == count_macs(demo.model, inputs)
    assert costs["params"] == sum(p.numel() for p in demo.model.parameters())
    assert digits.test is not None
    truth = digits.test.take(range(300)).targets
    top1 = (outputs(demo.model, inputs).argmax(1) == truth).float().mean()
    assert score["pruned"] == pytest.approx(float(top1), abs=1e-6)
    assert not demo.model.training


def test_a_fresh_process_loads_the_same_network(demo: autoprune.Run, digits: Splits) -> None:
    """No pickle is read on the way."""
    inputs = inputs_of(digits)
    torch.save(inputs, demo.path.parent / "inputs.pt")
    script = f"""
import pickle, torch, autoprune
from autoprune.models.demo import digits_cnn
inputs = torch.load({str(demo.path.parent / "inputs.pt")!r}, weights_only=True)
def refuse(*args, **kwargs):
    raise AssertionError("a pickle was read")
pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse
model = autoprune.load_pruned(digits_cnn(), {str(demo.path)!r})
assert not model.training
with torch.no_grad():
    print(model(inputs).flatten().tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = torch.tensor(json.loads(done.stdout)).reshape(len(inputs), -1)
    torch.testing.assert_close(found, outputs(demo.model, inputs))


def test_policy_alone_gives_the_structure(demo: autoprune.Run, digits: Splits) -> None:
    dense = load_demo()
    for policy in (demo.policy, demo.path / "policy.json", str(demo.path / "policy.json")):
        small = autoprune.apply_policy(dense, policy)
        shapes = {name: t.shape for name, t in small.state_dict().items()}
        assert shapes == {name: t.shape for name, t in demo.model.state_dict().items()}
        outputs(small, inputs_of(digits))
    for name, group in demo.policy.groups.items():
        kept = dense.get_parameter(f"{name}.weight")[list(group.kept)]
        assert kept.shape[0] == small.get_parameter(f"{name}.weight").shape[0]


def test_another_network_is_refused(demo: autoprune.Run) -> None:
    for other in (nn.Linear(2, 2), nn.Sequential(digits_cnn())):
        with pytest.raises(ModelError, match="made for another network"):
            autoprune.load_pruned(other, demo.path)


def test_unfinished_runs_are_refused(tmp_path: Path) -> None:
    for call in (
        lambda: autoprune.load_pruned(digits_cnn(), tmp_path),
        lambda: autoprune.apply_policy(digits_cnn(), tmp_path / "policy.json"),
    ):
        with pytest.raises(RunError):
            call()


def test_what_an_agent_learnt_is_told_and_used_again(tmp_path: Path) -> None:
    notes: list[str] = []

    class Notes(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    def search(folder: str, **options: Any) -> autoprune.Run:
        options = {**TINY, "trials": 2, "progress": Notes(), "output": tmp_path / folder, **options}
        return autoprune.search(classifier(), data=dataset(), **options)

    search("plain")
    assert not any("learnt" in note for note in notes)
    run = search("taught", strategy="ddpg")
    how = f"use it with agent={str(run.path)!r}"
    assert f"what it learnt is in {run.path}/agent: {how}" in notes
    again = search("again", strategy="ddpg", agent=str(run.path))
    assert again.result["agent_from"]["episodes"] == 2


def test_the_best_of_many_are_prescreened_by_a_quick_repair(
    digits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Notes()
    steps: list[tuple[int, int]] = []
    monkeypatch.setattr(told, "step", lambda stage, *at: steps.append((stage, *at)), raising=False)
    options = {**FEW, "strategy": "random", "trials": 6, "calibration_samples": 256}
    options["engine"] = {"repair": {"pays": 0}}  # whatever it saves
    run = autoprune.search(
        load_demo(), data=digits, output=tmp_path / "run", progress=told, **options
    )
    assert run.result["reconstruction"] in ("quick-sequential", "sequential")
    # The judge's own repair of the first, all six quickly repaired, four thoroughly at most.
    done, planned = [step[1:] for step in steps if step[0] == "finalists"][-1]
    assert 1 + 6 < done <= planned == 1 + 6 + 4

"""The examples of docs/finetuning.md run: other trainers train a pruned network."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

import autoprune
from autoprune.data import load_splits
from autoprune.models.demo import load_demo

TRAINERS = {"plain": "torch", "lightning": "lightning", "Trainer": "transformers"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return autoprune.search(
        load_demo(),
        data=load_splits("digits"),
        budget="flops=0.3",
        strategy="uniform",
        trials=1,
        recover="off",
        output=tmp_path_factory.mktemp("runs") / "a",
    ).path


@pytest.mark.parametrize("package", TRAINERS.values())
def test_other_trainers(
    root: Path, run: Path, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed")
    page = (root / "docs" / "finetuning.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    (block,) = (
        one
        for one in blocks
        if re.search(rf"^(import|from) {package}\b", one, re.M)
        and (package != "torch" or "optimizer.step()" in one)
    )
    small = autoprune.load_pruned(load_demo(), run)
    before = {name: value.clone() for name, value in small.state_dict().items()}
    samples = load_splits("digits").train.take(range(128))
    train = TensorDataset(samples.inputs, samples.targets)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of these packages
        exec(compile(block, package, "exec"), {"small": small, "train": train})
    after = small.state_dict()
    assert not small.training
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_batch_norms_are_prepared_as_the_page_says(root: Path, run: Path) -> None:
    page = (root / "docs" / "finetuning.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    (block,) = (one for one in blocks if "autoprune.with_own_statistics" in one)
    small = autoprune.load_pruned(load_demo(), run)
    samples = load_splits("digits").train.take(range(256))
    names = {"small": small, "train": TensorDataset(samples.inputs, samples.targets)}
    exec(compile(block, "page", "exec"), names)
    prepared: Any = names["small"]
    assert prepared is not small
    torch.testing.assert_close(
        prepared(samples.inputs), small(samples.inputs), rtol=1e-3, atol=1e-3
    )

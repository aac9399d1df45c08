"""Specs of data: the digits, factories, and what no spec is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from split_labels import labels_of

from autoprune.data import absolute_data, load_splits
from autoprune.data.sources import FORMS, Form
from autoprune.data.splits import Splits
from autoprune.errors import AutopruneError, UsageError

FIRST_TEST_LABELS = [6, 9, 7, 5, 8, 2, 1, 4, 3, 0, 6, 7]


class TestDigits:
    def test_sizes_range_and_balance(self) -> None:
        splits = load_splits("digits")
        assert splits.val is not None and splits.test is not None
        assert (len(splits.train), len(splits.val), len(splits.test)) == (1197, 300, 300)
        inputs = splits.train.take(range(1197)).inputs
        assert inputs.shape == (1197, 1, 8, 8)
        assert [inputs.min().item(), inputs.max().item()] == [0.0, 1.0]
        for split in (splits.val, splits.test):
            assert np.bincount(labels_of(split)).tolist() == [30] * 10

    def test_every_image_stands_in_one_split(self) -> None:
        from sklearn.datasets import load_digits

        splits = load_splits("digits")
        images = torch.cat(
            [s.take(range(len(s))).inputs for s in (splits.train, splits.val, splits.test) if s]
        )
        found = sorted(map(tuple, images.mul(16).round().flatten(1).tolist()))
        assert found == sorted(map(tuple, load_digits().data.tolist()))

    def test_split_is_the_one_that_the_demo_was_trained_on(self) -> None:
        assert labels_of(load_splits("digits").test)[:12] == FIRST_TEST_LABELS


class TestFactory:
    SOURCE = """
import torch
from torch.utils.data import TensorDataset

def make():
    return {"train": TensorDataset(torch.zeros(4, 2), torch.arange(4))}

def broken():
    raise RuntimeError("no disk\\nmore")

number = 3
"""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        file = tmp_path / "mydata.py"
        file.write_text(self.SOURCE)
        return file

    def test_factory(self, file: Path) -> None:
        assert labels_of(load_splits(f"{file}:make").train) == [0, 1, 2, 3]

    @pytest.mark.parametrize(
        ("name", "normalize", "message"),
        [
            ("mak", None, "has no 'mak'; did you mean 'make'?"),
            ("number", None, "names no factory: int is not callable"),
            ("broken", None, "making it fails: RuntimeError: no disk"),
            ("make", "imagenet", "'imagenet' does not apply"),
        ],
    )
    def test_error(self, file: Path, name: str, normalize: str | None, message: str) -> None:
        with pytest.raises(UsageError) as caught:
            load_splits(f"{file}:{name}", normalize)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "unknown data 'digit': did you mean 'digits'?"),
        ("cifar:data", "unknown data 'cifar:data': did you mean 'cifar10'?"),
        ("", "choose one of: cifar10, digits, hf, imagefolder, npz"),
        ("digits:all", "digits takes no argument, but got 'all'"),
        ("cifar10", "lacks its argument after the colon"),
        ("none.py:make", "no such file: 'none.py'"),
    ],
)
def test_unknown_form(spec: str, message: str) -> None:
    with pytest.raises(AutopruneError) as caught:
        load_splits(spec)
    assert message in str(caught.value)


def test_a_form_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether there is an argument, and how its paths become absolute, need no second table."""
    seen: list[str] = []

    def load(argument: str, normalize: str | None) -> Splits:
        seen.append(argument)
        return load_splits("digits", normalize)

    monkeypatch.setitem(FORMS, "rows", Form(load, "FILE"))
    monkeypatch.setitem(FORMS, "fixed", Form(load))
    assert load_splits("rows:a.csv") and load_splits("fixed")
    assert seen == ["a.csv", ""]
    assert absolute_data("rows:a.csv") == f"rows:{Path.cwd() / 'a.csv'}"
    assert [absolute_data(spec) for spec in ("fixed", "fixed:x", "rows")] == [
        "fixed", "fixed:x", "rows",
    ]  # fmt: skip
    for spec, message in {"rows": "lacks its argument", "fixed:x": "takes no argument"}.items():
        with pytest.raises(UsageError, match=message):
            load_splits(spec)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_reads_or_says_what_is_wrong(name: str, tmp_path: Path) -> None:
    spec = f"{name}:{tmp_path / 'none'}"
    with pytest.raises(AutopruneError):
        load_splits(spec)
    assert absolute_data(spec) == spec


def test_specs_are_known_without_pytorch() -> None:
    code = (
        "import sys; from autoprune.data.sources import absolute_data, usages\n"
        "usages(); absolute_data('cifar10:x')\n"
        "print([heavy for heavy in ('torch', 'numpy', 'sklearn') if heavy in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

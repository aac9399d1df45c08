"""What a model spec says by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.models.specs import absolute_model, has_random_weights


def test_paths_become_absolute_and_names_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_model("nets.py:small") == f"{tmp_path / 'nets.py'}:small"
    for spec in ("demo", "torchvision:resnet18", "timm:resnet18", "package.module:factory"):
        assert absolute_model(spec) == spec


@pytest.mark.parametrize(
    ("spec", "weights", "random"),
    [
        ("torchvision:resnet18", None, True),
        ("timm:resnet18", None, True),
        ("timm:resnet18", "weights.pt", False),
        ("demo", None, False),
        ("nets.py:small", None, False),
    ],
)
def test_random_weights(spec: str, weights: str | None, random: bool) -> None:
    assert has_random_weights(spec, weights) is random


def test_specs_need_no_torch() -> None:
    code = "import sys, autoprune.models.specs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

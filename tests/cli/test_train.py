from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

SMALL = (
    *("--calibration-samples", "96", "--search-samples", "96", "--selection-samples", "96"),
    *("--epochs", "2", "--augment", "none", "--no-report"),
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "sliming"], "unknown method 'sliming'; did you mean 'slimming'?"),
        (["--method", "sfp"], "the method 'sfp' does not decide how much goes: give a budget"),
        (["--method-option", "sparsity=1"], "--method is missing: choose slimming, "),
        (["--method", "sss", "--method-option", "sparsety=1"], "has no option 'sparsety'"),
        (["--method", "sss", "--method-option", "sparsity"], "must be OPTION=VALUE"),
        (["--resume"], "--resume needs --output DIR"),
        (["--resume", "--output", "nowhere"], "there is no train.toml in it"),
        (["--method", "sss", "--model", "torchvision:resnet18"], "needs --data SPEC"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, cli) -> None:
    done = cli("train", *arguments)
    assert done.status == 2 and message in done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("runs").exists() and not Path("nowhere").exists()


def test_a_run_is_made_and_goes_on(cli, tmp_path: Path) -> None:
    """The method decides how much goes; evaluate takes the trained network wherever it lies."""
    given = ("--method", "sss", "--method-option", "sparsity=0.5", "--output", "a", *SMALL)
    done = cli("train", *given)
    assert done.status == 0, done.err
    assert "trained" in done.out and "1 epoch in" in done.out
    result = json.loads(Path("a/result.json").read_text())
    assert result["train"]["method"] == "sss" and result["budget"] is None
    assert result["train"]["options"] == {"sparsity": 0.5, "momentum": 0.9}
    again = cli("train", *given)
    assert again.status == 2 and "continue that with --resume" in again.err
    assert cli("train", "--resume", "--output", "a", "--quiet").out.strip() == "a"
    shutil.move("a", "b")
    shown = cli("evaluate", "b", "--json")
    assert shown.status == 0, shown.err
    assert json.loads(shown.out)["dense"]["top1"] == result["train"]["scores"]["trained"]["top1"]

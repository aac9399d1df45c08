from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from autoprune.core.untrusted import tomllib

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


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("[method.sliming]\nsparsity = 1", [], "unknown method 'sliming'; did you mean"),
        ("[method.sss]\nsparsety = 1", [], "has no option 'sparsety'; did you mean 'sparsity'?"),
        ("[method.sss]\n[method.ista]", [], "there are tables of the methods 'sss', 'ista'"),
        ("[method]\nname = 'sss'", [], "must be a name or tables such as [method.name]"),
        ("epoch = 3", ["--method", "sss"], "unknown key 'epoch'; did you mean 'epochs'?"),
        ("trials = 3", ["--method", "sss"], "unknown key 'trials'"),
        ("epochs = 'two'", ["--method", "sss"], "epochs must be a number, but got 'two'"),
        ("method = 'mine.py:Mine'", [], "method 'mine.py:Mine'"),
        ("logger = ['mine.py:Mine']", ["--method", "sss"], "logger 'mine.py:Mine'"),
        ("budget = 'flops=0.5'", ["--method", "sfp", "--widths-from", "x"], "'x' holds no run"),
    ],
)
def test_config_files_that_cannot_be_meant(
    content: str, arguments: list[str], message: str, cli
) -> None:
    Path("mine.py").write_text("raise SystemExit('imported without consent')\n")
    Path("mine.toml").write_text(content + "\n")
    done = cli("train", "--config", "mine.toml", *arguments)
    assert done.status == 2 and message in done.err, done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("runs").exists()


def test_a_config_file_names_the_method_and_its_options(cli) -> None:
    """The command line wins, option by option; another method has nothing of the table."""
    Path("mine.toml").write_text(
        "epochs = 0.2\naugment = 'none'\nreport = false\nselection-samples = 96\n"
        "calibration_samples = 96\nsearch-samples = 96\noutput = 'a'\n"
        "[method.sss]\nsparsity = 0.5\nmomentum = 0.8\n"
    )
    given = ("train", "--config", "mine.toml", "--method-option", "momentum=0.7")
    done = cli(*given)
    assert done.status == 0, done.err
    stored = tomllib.loads(Path("a/train.toml").read_text())
    assert stored["method"] == "sss"
    assert stored["method_config"] == {"sparsity": 0.5, "momentum": 0.7}
    assert cli("train", "--resume", "--output", "a", "--quiet").out.strip() == "a"
    other = cli("train", "--config", "mine.toml", "--method", "gdp", "--output", "b")
    assert other.status == 2 and "does not decide how much goes" in other.err


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

from __future__ import annotations

import json
from pathlib import Path

import pytest

FEW = (
    *("--calibration-samples", "96", "--search-samples", "96", "--selection-samples", "96"),
    "--no-report",
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--amount is missing: the share that becomes zero, e.g. 0.75."),
        (["--amount", "75"], "--amount must be from 0 to below 1, but got 75.0"),
        (["--amount", "0.5", "--pattern", "2:4"], "leave out --amount"),
        (["--pattern", "4:4"], "leaves nothing to remove"),
        (["--amount", "0.5", "--pattern", "4"], "unknown pattern '4'"),
        (["--amount", "0.5", "--method", "slimming"], "unknown method 'slimming'"),
        (["--amount", "0.5", "--model", "torchvision:resnet18"], "see autoprune sparsify --help"),
        (["--amount", "0.5", "--learning-rate", "0.1"], "there are no epochs: give --epochs"),
        (["--resume"], "--resume needs --output DIR"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, cli) -> None:
    done = cli("sparsify", *arguments)
    assert done.status == 2 and message in done.err, done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("runs").exists()


def test_the_demo_from_the_command_line(cli) -> None:
    """Zeros are counted, a run that is finished goes on to nothing, and no search fills them."""
    done = cli("sparsify", "--amount", "0.5", "--output", "runs/a", *FEW)
    assert done.status == 0 and "50.00 % of the weights, which are" in done.out, done.err
    written = json.loads(Path("runs/a/result.json").read_text())
    again = cli("sparsify", "--resume", "--output", "runs/a")
    assert again.status == 0, again.err
    assert json.loads(Path("runs/a/result.json").read_text()) == written
    assert cli("report", "runs/a").status == 0
    assert "with 50.0 % of its weights zero" in Path("runs/a/report.html").read_text()
    refused = cli("search", "--from-training", "runs/a", "--budget", "flops=0.5")
    assert refused.status == 2 and "has zeros in single weights" in refused.err

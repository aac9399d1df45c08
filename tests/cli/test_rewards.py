"""Rewards on the command line, on the demo."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from autoprune.core.records import tomllib


def test_the_documented_example(cli, root: Path) -> None:
    """Word for word, but on few images and with few trials."""
    text = (root / "docs" / "rewards.md").read_text()
    (code, *_), (command, *_) = (
        re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) for language in ("python", "bash")
    )
    Path("my_reward.py").write_text(code)
    words = command.replace("--trials 40", "--trials 4 --config small.toml").split()
    assert words[0] == "autoprune" and cli(*words[1:]).status == 0
    result = json.loads(Path("runs/lean/result.json").read_text())
    name = f"{Path('my_reward.py').absolute()}:lean"
    assert (result["budget"], result["reward"]) == (None, name)
    stored = tomllib.loads(Path("runs/lean/config.toml").read_text())
    assert (stored["budget"], stored["reward"]) == ("none", name)
    costs = result["costs"]
    assert costs["pruned"]["params"] < 0.5 * costs["dense"]["params"]


def test_a_config_file_without_a_budget(cli) -> None:
    Path("mine.toml").write_text(
        Path("small.toml").read_text()
        + 'reward = "accuracy_flops"\ntrials = 4\nquiet = true\nstrategy = "random"\n'
    )
    assert cli("search", "--config", "mine.toml", "--output", "out").status == 0
    again = cli("search", "--config", "out/config.toml", "--output", "again", "--quiet")
    assert again.status == 0
    first, second = (json.loads(Path(run, "result.json").read_text()) for run in ("out", "again"))
    assert first["budget"] is None and first["reward"] == "accuracy_flops"
    assert first["widths"] == second["widths"]


FAULTY = """
from pathlib import Path

def lean(found):
    with Path("calls").open("a") as calls:
        calls.write("x")
    if Path("broken").exists() and len(Path("calls").read_text()) > 2:
        FAULT
    return found.scores.top1
"""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ('raise KeyError("latency")', "raised KeyError: 'latency'"),
        ("import sys; sys.exit(0)", "raised SystemExit: 0"),
        ('return float("nan")', "returned nan, which is not a finite number,"),
    ],
)
def test_a_mended_reward_is_resumed_from_any_folder(
    fault: str, said: str, search, cli, tmp_path, monkeypatch
) -> None:
    Path("faulty.py").write_text(FAULTY.replace("FAULT", fault))
    Path("broken").touch()
    done = search("--reward", "faulty.py:lean", "--trials", "9", "--strategy", "random")
    assert done.status == 2 and done.out == ""
    error = done.err.splitlines()[-1]
    assert re.match(
        r"Error: 5 trials in a row failed, the last one because "
        rf"the reward '\S+/faulty\.py:lean' {said} "
        r"for a network of flops=\d+, params=\d+, memory=\d+; "
        r"every earlier trial is kept",
        error,
    )
    assert "Traceback" not in done.err and not Path("out/result.json").exists()

    failed = [line for line in done.err.splitlines() if re.match(r"trial \d failed: ", line)]
    assert [line.partition(" failed")[0] for line in failed] == [f"trial {n}" for n in range(3, 8)]
    assert all(f"{said} for a network of flops=" in line for line in failed)

    refused = cli("search", "--resume", "--output", "out", "--reward", "accuracy")
    assert refused.status == 2 and "--reward" in refused.err
    Path("broken").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = cli("search", "--resume", "--output", "../out")
    assert done.status == 0 and "2 of them done before" in done.err
    found = json.loads(Path("../out/result.json").read_text())["search"]
    assert (found["trials"], found["failed"]) == (9, 0)

"""Whole searches of one study at the same time, of which one is killed and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

import autoprune
from autoprune.models.demo import load_demo
from autoprune.reporting.status import read_status
from autoprune.study.ledger import read_trials
from autoprune.study.run_directory import RunDirectory
from autoprune.study.shared_ledger import SharedStudy

TRIALS, SEARCH_SAMPLES = 24, 64
OPTIONS = f"""
budget = "flops=0.5"
strategy = "random"
trials = {TRIALS}
recover = "off"
calibration-samples = 64
search-samples = {SEARCH_SAMPLES}
selection-samples = 48
[engine.storage]
heartbeat = 1
patience = 3
"""
# Both begin when both are there. Evaluations are written down, one of which is the last thing
# that a process does.
REWARD = f"""
import os, signal
from pathlib import Path

def count(found):
    who, log = os.environ["WHO"], Path("evaluated")
    if found.scores.samples != {SEARCH_SAMPLES} or found.costs == found.dense_costs:
        return -found.scores.soft_kl
    lines = log.read_text().splitlines() if log.exists() else []
    made = sum(line.startswith(who + " ") for line in lines)
    if made == 0:
        open("meeting", {{"one": "w", "two": "r"}}[who]).close()
    if made == int(os.environ.get("KILLED_AFTER", -1)):
        os.kill(os.getpid(), signal.SIGKILL)
    with log.open("a") as file:
        file.write(f"{{who}} {{tuple(found.widths)}}\\n")
    return -found.scores.soft_kl
"""
COMPLETE = {
    "config.toml", "groups.json", "policy.json", "pruned.safetensors", "report.html",
    "result.json", "run.log", "study.db",
}  # fmt: skip


NEW = ("--config", "options.toml", "--reward", "reward.py:count")


def begun(
    folder: Path, who: str, url: str, *options: str, **environment: str
) -> subprocess.Popen[str]:
    words = ["search", *options, "--storage", url, "--quiet", "--output", who]
    command = [sys.executable, "-m", "autoprune.cli.app", *words]
    given = {**os.environ, "OMP_NUM_THREADS": "1", "WHO": who, **environment}
    return subprocess.Popen(command, cwd=folder, env=given, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=600)
    return process.returncode, said


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes as files")
@pytest.mark.parametrize("storage", ["sqlite", "postgresql"])
def test_two_searches_of_which_one_is_killed_and_resumed(
    storage: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    if storage == "postgresql":
        url = request.getfixturevalue("postgresql")
    (tmp_path / "options.toml").write_text(OPTIONS)
    (tmp_path / "reward.py").write_text(REWARD)
    os.mkfifo(tmp_path / "meeting")
    one = begun(tmp_path, "one", url, *NEW, KILLED_AFTER="4")
    two = begun(tmp_path, "two", url, *NEW)
    assert ended(one) == (-signal.SIGKILL, "")
    resumed = begun(tmp_path, "one", url, "--resume")
    assert [ended(resumed), ended(two)] == [(0, ""), (0, "")]

    evaluated = [line.split(" ", 1) for line in (tmp_path / "evaluated").read_text().splitlines()]
    assert {who for who, _ in evaluated} == {"one", "two"}
    opened = SharedStudy(url, "", "reader").storage()
    study = optuna.load_study(study_name=optuna.get_all_study_names(opened)[-1], storage=opened)
    assert not study.get_trials(states=(TrialState.RUNNING,))
    for who in ("one", "two"):
        run = RunDirectory(tmp_path / who)
        with run.stored_study() as study:
            made = [str(trial.candidate.widths) for trial in read_trials(study)]
        assert len(made) == TRIALS == len(set(made))
        assert sorted(made) == sorted(widths for _, widths in evaluated)  # none lost, none twice
        assert {path.name for path in run.path.iterdir()} - {".lock"} == COMPLETE
        assert read_status(run).state == "finished"
        autoprune.load_pruned(load_demo(), run.path)
    policies = [(tmp_path / who / "policy.json").read_bytes() for who in ("one", "two")]
    assert policies[0] == policies[1]

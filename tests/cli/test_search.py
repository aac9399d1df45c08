from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import save_file

from autoprune.cli.display import show_search
from autoprune.cli.settings import gather
from autoprune.core.untrusted import tomllib
from autoprune.models.demo.network import load_demo


def result(path: str | Path) -> dict[str, Any]:
    return json.loads(Path(path, "result.json").read_text())


def test_demo(demo_run) -> None:
    run, done = demo_run
    assert done.status == 0
    for word in ("top-1", "MACs", "params", "latency", "3 trials", "statistics", "rest"):
        assert word in done.out
    assert f"autoprune evaluate {run}" in done.out
    assert "\x1b" not in done.out + done.err
    costs = result(run)["costs"]
    assert costs["pruned"]["flops"] <= 0.5 * costs["dense"]["flops"]


@pytest.mark.parametrize(("pruned_ms", "is_told"), [(8.0, True), (7.0, False), (None, False)])
def test_fewer_macs_that_save_no_time_are_told(
    demo_run, capsys, pruned_ms: float | None, is_told: bool
) -> None:
    costs = {
        "dense": {"flops": 1000, "params": 10, "latency_ms": 10.0},
        "pruned": {"flops": 500, "params": 5, "latency_ms": pruned_ms},
        "latency": {
            "device": "cpu",
            "backend": "torch",
            "measured_ms": pruned_ms,
            "predicted_ms": None,
        },
    }
    run, _ = demo_run
    for budget in ("flops=0.5", None, "params=0.5", "flops=0.5,latency=0.9"):
        found = {**result(run), "costs": costs, "budget": budget}
        show_search(SimpleNamespace(path=run, result=found))
        told = "MACs fell by 50.00 %, latency by 20.00 %: for" in capsys.readouterr().out
        assert told == (is_told and budget == "flops=0.5")


def test_default_output_counts_up(cli) -> None:
    Path("runs/demo-1").mkdir(parents=True)
    command = "search --config small.toml --budget flops=0.5 --trials 1 --strategy uniform --quiet"
    done = cli(*command.split())
    assert (done.status, done.out, done.err) == (0, "runs/demo-2\n", "")


def test_equal_seeds_give_equal_widths(demo_run, cli) -> None:
    """The config.toml of a run repeats it."""
    run, _ = demo_run
    assert cli("search", "--config", f"{run}/config.toml", "--output", "again").status == 0
    assert result("again")["widths"] == result(run)["widths"]


def test_a_recalled_run_says_what_is_searched(cli) -> None:
    """Its network, images, and the groups that were left alone, unless others are given."""
    Path("net.py").write_text("from autoprune.models.demo import digits_cnn\n")
    save_file(load_demo().state_dict(), "demo.safetensors")
    given = "--model net.py:digits_cnn --weights demo.safetensors --data digits"
    search = f"search {given} --exclude stem.0 --config small.toml --budget flops=0.5 --trials 4"
    assert cli(*search.split(), "--strategy", "netadapt", "--output", "out").status == 0
    again = ("search", "--from", "out", "--budget", "flops=0.7", "--recover", "off")
    recalled = cli(*again, "--output", "recalled")
    assert recalled.status == 0, recalled.err
    assert result("recalled")["widths"].keys() == result("out")["widths"].keys()
    config = tomllib.loads(Path("recalled", "config.toml").read_text())
    assert config["exclude"] == ["stem.0"] and config["model"].endswith("net.py:digits_cnn")
    stored = Path("out", "config.toml")
    before = stored.read_text()
    stored.write_text('latency_table = "gone"\nlatency_backend = "gone.py:Gone"\n' + before)
    assert "'gone'" in cli(*again, "--output", "predicted").err
    Path("new.json").write_text("{}")
    predicted = cli(*again, "--latency-table", "new.json", "--output", "predicted").err
    assert "new.json" in predicted and "gone" not in predicted
    stored.write_text(before)
    assert cli(*again, "--model", "demo", "--output", "other").status == 0
    assert 'model = "demo"' in Path("other", "config.toml").read_text()


def stored_run(**changes: Any) -> None:
    Path("out").mkdir(exist_ok=True)
    options = {"model": "demo", "data": "digits", "budget": "flops=0.5", **changes}
    Path("out", "config.toml").write_text(tomli_w.dumps(options))


def limits(**given: Any) -> tuple[Any, ...]:
    """Return what may not change, as a search with these options takes it."""
    options = gather(given).search
    return tuple(options.get(key) for key in ("exclude", "exclude_outputs", "train_frozen"))


def test_what_stays_and_what_is_trained_is_recalled(cli) -> None:
    stored_run(exclude=["stem.0"], exclude_outputs=["widen.0"], train_frozen=True)
    again = {"from_run": "out", "budget": "flops=0.8"}
    assert limits(**again) == (("stem.0",), ("widen.0",), True)
    assert limits(**again, exclude=("head",), train_frozen=False) == (("head",), None, False)
    assert limits(resume=True, output="out") == (("stem.0",), ("widen.0",), True)


def test_a_run_of_an_older_version_keeps_what_exclude_meant(cli) -> None:
    """It left outputs alone and trained what was frozen; a file of options has today's meaning."""
    stored_run(exclude=["widen.0"])
    for given in ({"from_run": "out", "budget": "flops=0.8"}, {"resume": True, "output": "out"}):
        assert limits(**given) == ((), ("widen.0",), True)
    assert limits(config="out/config.toml") == (("widen.0",), None, None)
    stored_run(exclude=["widen.0"], autoprune="0.1", versions={"torch": "2.6"})
    assert limits(config="out/config.toml") == ((), ("widen.0",), True)  # it is a run's own


def test_outputs_alone_are_excluded_and_what_is_frozen_may_be_trained(search) -> None:
    options = ("--config", "small.toml", "--strategy", "uniform", "--trials", "1")
    assert search(*options, "--exclude-outputs", "widen.0", "--train-frozen").status == 0
    stored = tomllib.loads(Path("out", "config.toml").read_text())
    assert (stored["exclude_outputs"], stored["train_frozen"]) == (["widen.0"], True)
    assert "widen.0" not in result("out")["widths"]


def test_a_run_that_was_begun_from_python_is_recalled_with_its_model(cli) -> None:
    Path("begun").mkdir()
    Path("begun", "config.toml").write_text('budget = "flops=0.5"\n')
    done = cli("search", "--from", "begun", "--budget", "flops=0.7")
    assert done.status == 2 and "begun from Python: give --model and --data" in done.err
    done = cli("search", "--from", "nowhere", "--budget", "flops=0.7")
    assert done.status == 2 and "holds no run" in done.err


def test_config_file_and_command_line(search, cli) -> None:
    Path("mine.toml").write_text(
        'budget = "flops=0.9"\nstrategy = "uniform"\ntime = "10m"\nexclude = "stem"\n'
        'calibration-samples = 96\nsearch_samples = 96\nquiet = true\n[min-keep]\n"*" = 0.3\n'
    )
    done = search("--config", "mine.toml", "--round-to", "4", "--min-keep", "widen.*=0.6")
    assert done.status == 0 and done.out == "out\n"
    stored = tomllib.loads(Path("out/config.toml").read_text())
    assert stored["model"] == "demo" and stored["data"] == "digits"
    assert stored["budget"] == "flops=0.5" and stored["strategy"] == "uniform"
    assert stored["time"] == 600 and stored["round_to"] == 4
    assert stored["exclude"] == ["stem"] and stored["min_keep"] == {"widen.*": 0.6}
    widths = result("out")["widths"]
    assert "stem.0" not in widths and widths["widen.0"][0] >= 0.6 * 64
    assert all(kept % 4 == 0 for kept, _ in widths.values())


def test_trained_weights(search, demo_run) -> None:
    state = {f"_orig_mod.module.{k}": v for k, v in load_demo().state_dict().items()}
    torch.save({"epoch": 3, "model_state_dict": state}, "trained.pt")
    assert (
        search(
            "--weights", "trained.pt", "--seed", "7", "--data", "digits", "--model", "demo"
        ).status
        == 0
    )
    assert result("out")["score"] == result(demo_run[0])["score"]


def test_time_stops_early_with_a_result(search, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = itertools.chain([0.0] * 4, itertools.repeat(math.inf))
    clock = SimpleNamespace(monotonic=lambda: next(hours), perf_counter=time.perf_counter)
    monkeypatch.setattr("autoprune.engine.loop.time", clock)
    assert search("--time", "1h", "--trials", "100000", "--strategy", "random").status == 0
    assert 0 < result("out")["search"]["trials"] <= 5


# While the file "slow" is there, trials take so long that a busy machine cannot miss them.
SLOW = """
import time
from pathlib import Path

def slow(found):
    time.sleep(0.5 if Path("slow").exists() else 0.0)
    return -found.scores.kl
"""


def test_interrupted_and_resumed(search, cli) -> None:
    Path("slow.py").write_text(SLOW)
    common = ["--trials", "20", "--seed", "3", "--reward", "slow.py:slow"]
    assert search(*common, "--output", "whole").status == 0
    command = [sys.executable, "-m", "autoprune.cli.app", "search", "--config", "small.toml"]
    command += ["--budget", "flops=0.5", *common, "--output", "cut"]
    Path("slow").touch()
    child = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # Whoever runs the tests in the background has them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while child.poll() is None and _trials("cut") < 2:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130 and out == ""
    assert "continue with: autoprune search --resume --output cut" in err.splitlines()[-1]
    assert "Traceback" not in err and not Path("cut/result.json").exists()
    assert 2 <= _trials("cut") < 20
    assert cli("evaluate", "cut").status == 2

    Path("slow").unlink()
    done = cli("search", "--resume", "--output", "cut")
    assert done.status == 0 and re.search(r"\d+ of them done before", done.err)
    assert result("cut")["widths"] == result("whole")["widths"]
    assert result("cut")["search"]["trials"] == 20


def test_resume_with_more_trials(demo_run, cli) -> None:
    shutil.copytree(demo_run[0], "out")
    assert cli("search", "--resume", "--output", "out", "--trials", "5", "--time", "1h").status == 0
    assert result("out")["search"]["trials"] == 5


def _trials(run: str) -> int:
    try:
        with closing(sqlite3.connect(f"file:{run}/study.db?mode=ro", uri=True)) as database:
            return database.execute("select count(*) from trials").fetchone()[0]
    except sqlite3.Error:
        return 0


def test_random_weights_are_announced_and_repeat(cli) -> None:
    Path("pictures.py").write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\n\n\ndef few():\n"
        "    torch.manual_seed(0)\n"
        "    return TensorDataset(torch.randn(24, 3, 64, 64), torch.arange(24))\n"
    )
    command = "search --model torchvision:mobilenet_v3_small --data pictures.py:few"
    command += " --budget flops=0.7 --trials 1 --strategy uniform --importance l1 --output out"
    done = cli(*command.split())
    assert done.status == 0
    assert [line for line in done.err.splitlines() if line.startswith("Warning: ")] == [
        "Warning: torchvision:mobilenet_v3_small has random weights; "
        "give trained ones with --weights FILE."
    ]
    report = json.loads(cli("evaluate", "out", "--json").out)
    dense, pruned = (report[name]["flops"] for name in ("dense", "pruned"))
    assert pruned <= 0.7 * dense


def test_a_resumed_search_keeps_its_logger_wherever_it_is_resumed(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine.py").write_text(
        "class Mine:\n"
        "    def __init__(self, folder, config):\n"
        "        self.path = folder / 'points'\n"
        "    def log(self, step, figures):\n"
        "        with self.path.open('a') as file:\n"
        "            file.write(f'{step} ')\n"
        "    def close(self):\n"
        "        pass\n"
    )
    search = ("search", "--config", "small.toml", "--budget", "flops=0.5", "--strategy", "random")
    begun = cli(*search, "--trials", "2", "--output", "a", "--logger", "mine.py:Mine")
    assert begun.status == 0, begun.err
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    resumed = cli("search", "--resume", "--output", "../a", "--trials", "4")
    assert resumed.status == 0, resumed.err
    assert (tmp_path / "a" / "points").read_text() == "1 2 3 4 "

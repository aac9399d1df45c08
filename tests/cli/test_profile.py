"""`autoprune profile`, and searches that go by its table."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.profiling.backends.portable import default_threads

# A device that takes 10 ns a weight. While the file "slow" is there, small networks are slower.
DEVICE = """
from pathlib import Path

from autoprune.profiling.backends.base import Backend
from autoprune.profiling.stopwatch import Timing

DENSE = 184_042


class Device(Backend):
    name = "device"

    def layer(self, signature):
        if Path("gone").exists():
            raise RuntimeError("the device is lost")
        return lambda: 0.01 + 1e-5 * signature.weight_count

    def network(self, model, inputs):
        weights = sum(p.numel() for p in model.parameters())
        extra = 0.3 * (DENSE - weights) if Path("slow").exists() else 0
        return lambda: 0.05 + 1e-5 * (weights + extra)

    def measure(self, runs):
        if Path("stop").exists():
            raise KeyboardInterrupt
        return [Timing(float(run()), 9.0 if Path("noisy").exists() else 0.0, 7) for run in runs]

    def device_name(self):
        return "elsewhere" if Path("elsewhere").exists() else "a device"

    def versions(self):
        return {"device": "1"}
"""
BACKEND = ("--backend", "device.py:Device")
MEASURED = ("--latency-table", "table.json", "--latency-backend", "device.py:Device")


@pytest.fixture
def table(cli) -> Path:
    Path("device.py").write_text(DEVICE)
    done = cli("profile", *BACKEND, "--output", "table.json")
    assert done.status == 0, done.err
    assert "a device" in done.out and "7 layers" in done.out
    return Path("table.json")


def latency_of(run: str) -> dict[str, float]:
    return json.loads((Path(run) / "result.json").read_text())["costs"]["latency"]


def test_threads_are_the_runtimes_own_unless_given(cli) -> None:
    own = "    @classmethod\n    def default_threads(cls):\n        return 3\n"
    Path("device.py").write_text(DEVICE + "\n" + own)
    for given, threads in (((), 3), (("--threads", "2"), 2)):
        done = cli("profile", *BACKEND, *given, "--output", f"{threads}.json")
        assert done.status == 0 and f"device.py:Device on a device ({threads} threads)" in done.out
        assert json.loads(Path(f"{threads}.json").read_text())["conditions"]["threads"] == threads


def test_a_search_meets_latency_beside_other_bounds(table: Path, search, cli) -> None:
    done = search("--budget", "latency=0.6,flops=0.5,params=0.7", *MEASURED)
    assert done.status == 0, done.err
    found = latency_of("out")
    assert found["verified"] and found["device"] == "a device"
    assert found["measured_ms"] <= 0.6 * 1.01 * found["measured_dense_ms"]
    assert found["predicted_ms"] == pytest.approx(found["measured_ms"], rel=0.1)


def test_a_winner_that_misses_tightens_the_bound(table: Path, search) -> None:
    Path("slow").touch()
    done = search("--budget", "latency=0.6", *MEASURED)
    assert done.status == 0, done.err
    found = latency_of("out")
    assert "measured latency is 1." in done.err
    assert found["measured_ms"] <= 0.6 * 1.01 * found["measured_dense_ms"]
    assert found["predicted_ms"] < 0.55 * found["predicted_dense_ms"]


def test_trials_that_all_fail_end_a_tightened_search(table: Path, search) -> None:
    """A network that is known to miss its bound is not handed over as if all were well."""
    Path("slow").touch()
    Path("mine.py").write_text(
        "def lean(found):\n"
        "    if found.costs['latency'] < 0.55 * found.dense_costs['latency']:\n"
        "        raise KeyError('gone')\n"
        "    return -found.costs['latency']\n"
    )
    done = search("--budget", "latency=0.6", *MEASURED, "--reward", "mine.py:lean",
                  "--strategy", "random", "--trials", "6")  # fmt: skip
    assert done.status == 2 and "5 trials in a row failed" in done.err, done.err
    assert not Path("out/result.json").exists()


def test_nothing_is_measured_if_not_wanted_or_elsewhere(table: Path, search) -> None:
    options = ("--budget", "latency=0.6", *MEASURED)
    assert search(*options, "--no-verify-latency").status == 0
    assert latency_of("out")["verified"] is False
    Path("elsewhere").touch()
    assert search(*options, "--output", "other").status == 0
    found = latency_of("other")
    assert (found["verified"], found["measured_ms"]) == (False, None)
    assert found["predicted_ms"] <= 0.6 * found["predicted_dense_ms"]


@pytest.fixture
def phone(table: Path, search) -> Path:
    """A run by a table of ONNX Runtime on a device that is not here."""
    pytest.importorskip("onnxruntime")
    named = json.loads(table.read_text())
    named["conditions"]["backend"] = "onnxruntime"
    named["origin"]["device"] = "a phone"
    table.write_text(json.dumps(named))
    done = search("--budget", "latency=0.6", "--latency-table", str(table))
    assert done.status == 0, done.err
    assert (
        "predicted for onnxruntime on a phone" in done.out
        and "autoprune evaluate out --kit DIR" in done.out
    )
    return Path("out")


def measured_by_kit(folder: str, **figures: float) -> Path:
    """Run a kit; its results are then said to be of a phone, and of other milliseconds."""
    command = [sys.executable, "run.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path = Path(folder, "results.jsonl")
    head, *lines = map(json.loads, path.read_text().splitlines())
    head["device"] = "a phone"
    for line, ms in zip(lines, figures.values(), strict=bool(figures)):
        line |= {"ms": ms, "beside_ms": figures["dense"]}
    path.write_text("".join(json.dumps(line) + "\n" for line in (head, *lines)))
    return path


def test_the_winner_is_measured_on_another_device(phone: Path, cli) -> None:
    before = latency_of("out")
    assert before["verified"] is False
    done = cli("evaluate", "out", "--kit", "kit")
    assert done.status == 0, done.err
    assert len(list(Path("kit/models").iterdir())) == 2
    results = measured_by_kit("kit", dense=8.0, pruned=4.6)
    done = cli("evaluate", "out", "--from-kit", str(results))
    assert done.status == 0, done.err
    assert "57.50 % of dense" in done.out and "latency=0.6 is met" in done.out
    result = json.loads((phone / "result.json").read_text())
    found = result["costs"]["latency"]
    assert found["verified"] and found["device"] == "a phone"
    assert (found["measured_dense_ms"], found["measured_ms"]) == (8.0, 4.6)
    assert found["predicted_ms"] == before["predicted_ms"]
    assert result["costs"]["pruned"]["latency_ms"] == 4.6
    results.write_text(results.read_text().replace("4.6", "5.2"))
    done = cli("evaluate", "out", "--from-kit", str(results))
    assert "latency=0.6 is missed, by a factor of 1.083" in done.out
    report = json.loads(cli("evaluate", "out", "--from-kit", str(results), "--json").out)
    assert (report["measured_ms"], report["budget"]) == (5.2, "latency=0.6")


def test_a_winner_without_a_table_is_measured_elsewhere(search, cli) -> None:
    pytest.importorskip("onnxruntime")
    assert search().status == 0
    Path("out.latency.json").write_text("of a run that had this name before")
    assert cli("evaluate", "out", "--kit", "kit").status == 0
    results = measured_by_kit("kit")
    done = cli("evaluate", "out", "--from-kit", str(results))
    assert done.status == 0 and "predicted" not in done.out and "latency=" not in done.out
    found = latency_of("out")
    head = json.loads(results.read_text().splitlines()[0])
    assert found["threads"] == head["conditions"]["threads"] == default_threads()
    assert (found["device"], found["predicted_ms"], found["verified"]) == ("a phone", None, None)
    assert 0 < found["measured_ms"] and 0 < found["measured_dense_ms"]


def test_mistakes_with_the_kit_of_a_winner(phone: Path, cli, search) -> None:
    assert cli("evaluate", "out", "--kit", "kit").status == 0
    results = measured_by_kit("kit")
    good, result = results.read_text(), (phone / "result.json").read_text()
    head, *lines = good.splitlines()
    for text, words in (
        (good.replace("a phone", "a fridge"), "of 'a fridge', but"),
        ("\n".join([head, lines[0]]), "lack 1 whole networks"),
        (good.replace('"threads": 1', '"threads": 9'), "the same latency table, as for --kit"),
        (good.replace('"policy"', '"network"'), "of another kit"),
        (re.sub(r'("kept": \[)\d+', r"\g<1>99", good), "or of its winner at other widths"),
        ("{", "cannot read the kit's results"),
    ):
        results.write_text(text)
        done = cli("evaluate", "out", "--from-kit", str(results))
        assert done.status == 2 and words in done.err and len(done.err.splitlines()) == 1
    assert (phone / "result.json").read_text() == result
    for options, words in (
        (("--kit", "kit"), "is not empty"),
        (("--kit", "new", "--from-kit", "results.jsonl"), "give one"),
        (("--from-kit", "nowhere"), "cannot read the kit's results 'nowhere'"),
        (("--from-kit", str(results), "--split", "val"), "leave out --split"),
    ):
        done = cli("evaluate", "out", *options)
        assert done.status == 2 and words in done.err and len(done.err.splitlines()) == 1
    table = Path("table.json")
    table.write_text(table.read_text().replace('"onnxruntime"', '"torch"'))
    done = cli("evaluate", "out", "--kit", "new")
    assert done.status == 2 and "was measured with the backend 'torch'" in done.err
    table.unlink()
    assert cli("evaluate", "out", "--kit", "new").status == 2
    altered = json.loads(result)
    for path, words in ((("costs",), "was altered"), (("costs", "latency"), "was altered")):
        *way, last = path
        functools.reduce(lambda at, key: at[key], way, altered).pop(last)
        (phone / "result.json").write_text(json.dumps(altered))
        altered = json.loads(result)
        done = cli("evaluate", "out", "--from-kit", str(results))
        assert done.status == 2 and words in done.err and len(done.err.splitlines()) == 1
    assert not Path("new").exists()


def test_no_code_is_imported_because_a_table_names_it(table: Path, search) -> None:
    Path("device.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    named = json.loads(table.read_text())
    for number, backend in enumerate(("device.py:Device", "device:Device", "not_installed")):
        named["conditions"]["backend"] = backend
        table.write_text(json.dumps(named))
        options = ("--budget", "latency=0.6", "--latency-table", str(table))
        done = search(*options, "--output", f"run{number}")
        assert done.status == 0, done.err
        assert f"--latency-backend {backend}" in done.err
        assert latency_of(f"run{number}")["verified"] is False
    done = search(*options, "--no-verify-latency")
    assert done.status == 0 and "latency-backend" not in done.err
    assert not Path("ran").exists() and "device" not in sys.modules


def test_the_backend_that_is_named_is_the_tables(table: Path, search) -> None:
    Path("moved").mkdir()
    Path("device.py").rename("moved/device.py")
    named = ("--latency-backend", "moved/device.py:Device")
    options = ("--budget", "latency=0.6", "--latency-table", str(table))
    done = search(*options, *named)
    assert done.status == 0 and latency_of("out")["verified"], done.err
    for given, words in (
        ((*options, "--latency-backend", "torch"), "measured with the backend 'device.py:Device'"),
        ((*options, "--latency-backend", "gone.py:Device"), "no such file"),
        (named, "give --latency-table too"),
    ):
        done = search(*given, "--output", "other")
        assert done.status == 2 and words in done.err
        assert not Path("other").exists()


def test_a_device_that_disappears_and_comes_back(cli) -> None:
    Path("device.py").write_text(DEVICE)
    Path("gone").touch()
    done = cli("profile", *BACKEND, "--output", "table.json")
    assert done.status == 2 and "the device is lost" in done.err and "go on" in done.err
    Path("gone").unlink()
    Path("stop").touch()
    done = cli("profile", *BACKEND, "--output", "table.json")
    assert done.status == 130 and "kept in table.json.part" in done.err and "go on" in done.err
    Path("stop").unlink()
    Path("noisy").touch()
    done = cli("profile", *BACKEND, "--output", "table.json")
    assert done.status == 0 and "measurements exceeds their median" in done.err
    assert not Path("table.json.part").exists()
    origin = json.loads(Path("table.json").read_text())["origin"]
    assert 0 < origin["noisy"] <= origin["measurements"]


def test_mistakes(table: Path, cli, search) -> None:
    done = cli("profile", *BACKEND, "--output", "table.json")
    assert done.status == 2 and "there already" in done.err
    done = search("--budget", "latency=0.001ms", "--latency-table", str(table))
    assert done.status == 2 and "latency=0.001 ms is out of reach" in done.err
    data = json.loads(table.read_text())
    data["correction"]["coefficients"]["networks"] = 50.0  # ms that every pass takes
    Path("fixed.json").write_text(json.dumps(data))
    done = search("--budget", "latency=0.5", "--latency-table", "fixed.json")
    assert done.status == 2 and "the smallest network that can be cut has 50." in done.err
    assert len(done.err.splitlines()) <= 3 and "Traceback" not in done.err
    done = search("--budget", "latency=0.6", "--latency-table", "device.py")
    assert done.status == 2 and "cannot read latency table" in done.err
    done = cli("profile", "--device", "nonsense", "--output", "x.json")
    assert done.status == 2 and "'nonsense' cannot be used" in done.err


def test_a_kit_may_be_for_a_device_that_this_host_lacks(
    cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    written = []
    monkeypatch.setattr(
        "autoprune.profiling.kit.write.write_kit", lambda *a: written.append(a) or 3
    )
    done = cli("profile", "--kit", "kit", "--device", "RoadExecutionProvider")
    assert done.status == 0 and "kit: 3 models" in done.out, done.err
    assert written[0][-1].device == "RoadExecutionProvider"
    done = cli("profile", "--backend", "onnxruntime", "--device", "RoadExecutionProvider")
    assert done.status == 2 and "no provider 'RoadExecutionProvider' here" in done.err
    done = cli("profile", "--kit", "kit", "--device", "road")
    assert done.status == 2 and "is not one of ONNX Runtime's" in done.err


def test_a_page_that_cannot_be_written_is_told_before_measuring(cli) -> None:
    done = cli("profile", "--plot", "small.toml/page.html", "--output", "table.json")
    assert done.status == 2 and "--plot 'small.toml/page.html' cannot be made" in done.err
    assert not list(Path.cwd().glob("table.json*"))


def test_widths_are_rounded_as_the_device_favours(table: Path, search) -> None:
    done = search("--round-to", "auto", "--latency-table", str(table))
    assert done.status == 0 and "widths are multiples of" in done.err
    done = search("--round-to", "often", "--output", "other")
    assert done.status == 2 and "must be a whole number or 'auto', but got 'often'" in done.err

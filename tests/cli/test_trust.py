"""What a run directory names is imported only if its user agreed."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from autoprune.cli.settings import gather
from autoprune.engine.begin import resume_run
from autoprune.engine.trust import STATE_FOLDER, code_in
from autoprune.errors import UsageError
from autoprune.models.demo import load_demo
from autoprune.options.commands import NAMING_CODE, OF_COMMANDS
from autoprune.options.kinds import OBJECT
from autoprune.options.option import options_of
from autoprune.options.search import SearchConfig
from autoprune.options.stored import IN_FILES, stored_settings
from autoprune.study.run_directory import RunDirectory

# Whoever imports it leaves a trace.
CODE = """
from pathlib import Path

from autoprune.models.demo import digits_cnn
from autoprune.evaluation.reward import negative_kl
from autoprune.importance import L1Importance

Path("ran").touch()

def network():
    from autoprune.models.demo import load_demo
    return load_demo()

def images():
    from autoprune.data import load_splits
    return load_splits("digits")

class Measure:
    pass

class Chooser:
    pass
"""
SPECS = {
    "model": "network",
    "data": "images",
    "reward": "negative_kl",
    "importance": "L1Importance",
    "strategy": "Chooser",
    "latency_backend": "Measure",
    "evaluate": "negative_kl",
    "distance": "negative_kl",
    "logger": "Chooser",
}


@pytest.fixture
def stranger(cli, demo_run) -> Path:
    """A run that came from elsewhere, with code beside it."""
    shutil.copytree(demo_run[0], "given")
    Path("given", "code.py").touch()  # shadows a module of Python's where it is importable
    Path("given", "theirs.py").write_text(CODE)
    return Path("given")


def say(run: Path, option: str, spec: str) -> None:
    """Have the configuration of a run say something else."""
    path = run / "config.toml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{option} =")]
    path.write_text("\n".join([f'{option} = "{spec}"', *lines]) + "\n")


def runs_nothing(done: Any, option: str, name: str) -> None:
    assert done.status == 2 and done.out == ""
    assert len(done.err.splitlines()) == 1
    assert option.replace("_", "-") in done.err and name in done.err and "--trust" in done.err
    assert not Path("ran").exists()
    assert not any("given" in Path(folder).parts for folder in sys.path)


@pytest.mark.parametrize(
    ("option", "command"),
    [
        *(("model", command) for command in ("evaluate", "from", "resume", "config")),
        *(("data", command) for command in ("evaluate", "from", "resume", "config")),
        *(("reward", command) for command in ("resume", "config")),
        *(("importance", command) for command in ("from", "resume", "config")),
        *(("strategy", command) for command in ("resume", "config")),
        *(("logger", command) for command in ("resume", "config")),
        *(("latency_backend", command) for command in ("from", "resume", "config")),
        *(("evaluate", command) for command in ("evaluate", "from", "resume", "config")),
        *(("distance", command) for command in ("evaluate", "from", "resume", "config")),
    ],
)
def test_a_strangers_run_runs_no_code(cli, stranger: Path, option: str, command: str) -> None:
    name = f"given/theirs.py:{SPECS[option]}"
    say(stranger, option, name)
    if option == "latency_backend":
        say(stranger, "latency_table", "none.json")
    commands = {
        "evaluate": "evaluate given",
        "from": "search --from given --budget flops=0.7 --output out",
        "resume": "search --resume --output given --trials 9",
        "config": "search --config given/config.toml --output out",
    }
    runs_nothing(cli(*commands[command].split()), option, name)
    assert not Path("out").exists()


@pytest.mark.parametrize("form", ["given.theirs:network", "{}/given/theirs.py:network"])
def test_code_is_known_in_every_spelling(cli, stranger: Path, form: str) -> None:
    spec = form.format(Path.cwd())
    say(stranger, "model", spec)
    runs_nothing(cli("evaluate", "given"), "model", spec)


def test_inside_the_strangers_directory(cli, stranger: Path, monkeypatch) -> None:
    monkeypatch.chdir(stranger)
    say(Path(), "data", "theirs:images")
    done = cli("evaluate", ".")
    assert done.status == 2 and "data 'theirs:images'" in done.err
    assert not Path("ran").exists() and str(Path.cwd()) not in sys.path


@pytest.mark.parametrize("spec", ["os:getcwd", "torchvision.models:resnet18", "no.such:thing"])
def test_installed_modules_are_a_strangers_choice_too(cli, stranger: Path, spec: str) -> None:
    """Whatever is installed is not called because a stranger says so."""
    say(stranger, "model", spec)
    runs_nothing(cli("evaluate", "given"), "model", spec)


def test_a_module_that_other_code_makes_importable(cli, stranger: Path) -> None:
    """Naming one file of a folder does not let the run name others there."""
    say(stranger, "model", "theirs:network")
    Path("given", "named.py").write_text(
        "from autoprune.data import load_splits\ndef images():\n    return load_splits('digits')\n"
    )
    done = cli("evaluate", "given", "--data", "given/named.py:images")
    assert done.status == 2 and "model 'theirs:network'" in done.err
    assert not Path("ran").exists()


def test_code_that_is_named_or_trusted_runs(cli, stranger: Path) -> None:
    say(stranger, "model", "given/theirs.py:network")
    named = cli("evaluate", "given", "--model", "given/theirs.py:network", "--json")
    assert named.status == 0 and Path("ran").exists()
    assert cli("evaluate", "given").status == 2  # naming it once is not for ever
    say(stranger, "data", "given/theirs.py:images")
    assert "data 'given/" in cli("evaluate", "given", "--model", "demo").err
    assert cli("evaluate", "given", "--trust").status == 0
    assert cli("evaluate", "given").status == 0  # trusted from now on


@pytest.mark.parametrize("change", ["code", "spec", "copied", "another user"])
def test_what_changed_is_asked_for_again(
    cli, stranger: Path, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(stranger, "model", "given/theirs.py:network")
    run = "given"
    assert cli("evaluate", run, "--trust").status == 0
    if change == "code":
        Path("given", "theirs.py").write_text(CODE + "\n")
    elif change == "spec":
        say(stranger, "model", "given/theirs.py:digits_cnn")
    elif change == "copied":
        run = str(shutil.copytree("given", "copied"))
    else:
        monkeypatch.setenv(STATE_FOLDER, str(tmp_path / "other"))
    done = cli("evaluate", run)
    assert done.status == 2 and "model 'given/theirs.py:" in done.err and "--trust" in done.err


def test_a_package_around_a_module_is_its_code_too(cli, stranger: Path) -> None:
    package = Path("parts", "inner")
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    shutil.copy("given/theirs.py", package / "nets.py")
    say(stranger, "model", "parts.inner.nets:network")
    assert cli("evaluate", "given").status == 2 and not Path("ran").exists()
    assert cli("evaluate", "given", "--trust").status == 0
    assert cli("evaluate", "given").status == 0
    (package.parent / "__init__.py").write_text("import os\n")
    assert cli("evaluate", "given").status == 2


SEARCH = "search --config small.toml --budget flops=0.5 --trials 1 --strategy uniform --output out"


def test_ones_own_run_asks_nothing(cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Path("mine.py").write_text(CODE)
    own = "--model mine.py:network --data mine:images --reward mine.py:negative_kl"
    assert cli(*SEARCH.split(), *own.split(), "--importance", "mine:L1Importance").status == 0
    assert cli("evaluate", "out").status == 0
    for options in (
        {"resume": True, "output": "out", "trials": 2},
        {"from_run": "out", "budget": "flops=0.7"},
        {"config": "out/config.toml"},
    ):
        assert gather(options).origin["model"].endswith("/mine.py:network")
    shutil.copy("out/config.toml", "copied.toml")
    with pytest.raises(UsageError, match=r"^'copied.toml' names code of its own"):
        gather({"config": "copied.toml"})
    Path("sub").mkdir()
    monkeypatch.chdir("sub")
    assert cli("evaluate", str(tmp_path / "out"), "--data", "digits").status == 0


def test_a_cluster_that_is_named_anew_is_known(cli, demo_run) -> None:
    run = RunDirectory(shutil.copytree(demo_run[0], "out"))
    run.save_config({**run.load_config(), "ray": "10.0.0.1:6379"})
    again = {"resume": True, "output": "out"}
    with pytest.raises(UsageError, match=r"code of its own.*ray '10.0.0.1:6379'"):
        gather(again)
    other = {"ray": "10.0.0.2:6379"}
    assert gather({**again, **other}).search["ray"] == other["ray"]
    stored = stored_settings(run)
    resume_run(run, {**stored, **other}, SearchConfig(stored["budget"]))
    run.save_config({**stored, **other})  # what the search does next
    assert gather(again).search["ray"] == other["ray"]


def test_a_run_from_python_that_says_its_origin_asks_nothing(cli) -> None:
    import autoprune

    Path("mine.py").write_text(CODE)
    few = {"calibration_samples": 64, "search_samples": 64, "selection_samples": 64}
    autoprune.search(
        load_demo(), data=autoprune.data.load_splits("digits"), budget="flops=0.5", trials=1,
        strategy="uniform", recover="off", output="out", **few,
        origin={"model": "mine.py:network", "data": "digits"},
    )  # fmt: skip
    assert cli("evaluate", "out").status == 0


def test_a_state_folder_that_cannot_be_written_stops_nothing(
    cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine.py").write_text(CODE)
    Path("file").touch()
    monkeypatch.setenv(STATE_FOLDER, "file/state")
    done = cli(*SEARCH.split(), "--model", "mine.py:network", "--data", "digits")
    assert done.status == 0
    assert sum("--trust" in line for line in done.err.splitlines()) == 1
    assert cli("evaluate", "out").status == 2
    done = cli("evaluate", "out", "--trust")
    assert done.status == 0 and done.err.startswith("Warning: ")


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("model", ["demo", "torchvision:resnet18", "timm:resnet18"]),
        ("data", ["digits", "cifar10:dir", "imagefolder:dir", "npz:a.npz,b.npz;val=c.npz"]),
        ("reward", ["kl", "accuracy_flops"]),
        ("importance", ["obs", "l1"]),
        ("strategy", ["auto", "bayes", "rl:ppo"]),
        ("latency_backend", ["torch", "onnxruntime"]),
        ("ray", ["local", "auto"]),
    ],
)
def test_names_that_come_with_autoprune_are_no_code(option: str, names: list[str]) -> None:
    assert [code for name in names for code in code_in(Path("run"), {option: name})] == []
    assert len([*code_in(Path("run"), {option: "os:getcwd"})]) == 1


def test_entry_points_are_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever installed the package chose it."""
    assert len([*code_in(Path("run"), {"reward": "mine:lean"})]) == 1
    monkeypatch.setattr(
        "autoprune.core.plugins.entry_points",
        lambda group: [EntryPoint("mine:lean", "mine:lean", group)],
    )
    assert [*code_in(Path("run"), {"reward": "mine:lean"})] == []


def test_what_names_code_says_so_in_its_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option added later is asked about without an entry anywhere else."""
    declared = replace(IN_FILES["model"], name="hook", kind=OBJECT)
    monkeypatch.setitem(NAMING_CODE, "hook", declared)
    (code,) = code_in(Path("run"), {"hook": "os:getcwd"})
    assert str(code) == "hook 'os:getcwd'"


def test_every_option_that_names_code_is_tried_above() -> None:
    naming = {name for name, one in IN_FILES.items() if one.kind.is_installed is not None}
    assert naming == {*SPECS, "ray"}  # a cluster sends and runs pickled code


@pytest.mark.parametrize("command", OF_COMMANDS)
def test_whose_paths_are_those_of_objects_names_code(command: str) -> None:
    """Paths of files are made absolute in another way: "os:getcwd" would be one."""
    for one in options_of(*OF_COMMANDS[command]).values():
        absolute = one.kind.absolute
        if one.name == "storage":
            continue  # the address of a database, which is taken from no file
        if absolute is not None and absolute("os:getcwd") == "os:getcwd":
            assert one.kind.is_installed is not None, one.name
            assert not one.kind.is_installed("os:getcwd")


def test_an_option_is_declared_alike_in_all_commands() -> None:
    """Consent goes by the key of the file, whichever command reads it."""
    for declarations in OF_COMMANDS.values():
        for name, one in options_of(*declarations).items():
            if one.kind.is_installed is not None and name in IN_FILES:
                assert IN_FILES[name].kind is one.kind, name

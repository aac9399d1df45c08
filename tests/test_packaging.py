"""What an ordinary install brings: one package, with its data, and nothing beside it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from autoprune.version import __version__

pytest.importorskip("setuptools")

USERS_SCRIPT = '''
"""What a user writes: search, reload, a custom reward and a custom criterion."""

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autoprune
from autoprune.evaluation.measurement import Measurement
from autoprune.importance import Evidence, Importance, Ranking
from autoprune.structure.groups import ChannelGroup


def make_model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))


def lean(found: Measurement) -> float:
    return (found.scores.top1 or 0.0) - found.costs["params"] / found.dense_costs["params"]


class FirstUnits(Importance):
    name = "first"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        return Ranking(tuple(range(group.size)))


samples = TensorDataset(torch.rand(64, 1, 8, 8), torch.zeros(64, dtype=torch.long))
data = {"train": DataLoader(samples), "val": samples}
try:
    run: autoprune.Run = autoprune.search(
        make_model(), data=data, budget="flops=0.5", trials=4, reward=lean, output=Path("run")
    )
except autoprune.AutopruneError as error:
    raise SystemExit(str(error)) from error
path: Path = run.path
seconds: float = run.result["seconds"]["total"]
small: nn.Module = autoprune.load_pruned(make_model(), run.path)
cut: nn.Module = autoprune.apply_policy(make_model(), run.policy)
version: str = autoprune.__version__
'''
"""Type-checked only, never run: `py.typed` and the public types must be enough for it."""

MISTAKE = "mistaken: int = run.path\n"
"""Refused only where the package's own types are read."""


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__")
    for package in ("autoprune", "agents", "search_spaces"):
        shutil.copytree(root / package, folder / "tree" / package, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / file, folder / "tree" / file)
    command = "-m pip wheel --no-deps --no-build-isolation --no-index --quiet".split()
    done = subprocess.run(
        [sys.executable, *command, "--wheel-dir", str(folder), str(folder / "tree")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_nothing_but_autoprune_is_installed(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"autoprune"}
    assert len(tops) == 2


def test_every_module_is_in_the_wheel(names: set[str], root: Path) -> None:
    """A new package that pyproject.toml does not list would be missing only for users."""
    sources = {
        "autoprune/" + path.relative_to(folder).as_posix()
        for folder in (root / "autoprune", root)
        for path in folder.rglob("*.py")
        if folder != root or path.relative_to(root).parts[0] in ("agents", "search_spaces")
    }
    assert sources == {name for name in names if name.endswith(".py")}


def test_data_is_in_the_wheel(names: set[str]) -> None:
    assert {"autoprune/models/demo/digits_cnn.safetensors", "autoprune/py.typed"} <= names
    templates = {f"autoprune/reporting/templates/page.{one}" for one in ("html", "css", "js")}
    assert templates <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]


def test_the_installed_package_runs(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = """
import autoprune, autoprune.agents, autoprune.search_spaces.projection
from autoprune.models.demo import load_demo
load_demo()
print(autoprune.__file__, autoprune.agents.__file__)
"""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}){script}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    files = done.stdout.split()
    assert [Path(file).is_relative_to(tmp_path) for file in files] == [True, True]


@pytest.fixture
def ordinary_install(wheel: Path, tmp_path: Path) -> Path:
    """The Python of an environment with the wheel in it; the libraries are those of this one."""
    folder = tmp_path / "environment"
    builder = venv.EnvBuilder(symlinks=os.name != "nt")
    builder.create(folder)
    context = builder.ensure_directories(folder)
    (packages,) = folder.glob("lib/**/site-packages")
    zipfile.ZipFile(wheel).extractall(packages)
    libraries = [place for place in sys.path if place.endswith("-packages")]
    (packages / "libraries.pth").write_text("\n".join(libraries))
    return Path(context.env_exe)


@pytest.mark.slow
def test_users_code_passes_mypy_strict(root: Path, ordinary_install: Path, tmp_path: Path) -> None:
    """Checks a script and CONTRIBUTING's examples; mypy first reads torch, for half a minute."""
    pytest.importorskip("mypy")
    script = tmp_path / "users_script.py"
    script.write_text(USERS_SCRIPT + MISTAKE)
    page = (root / "CONTRIBUTING.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for number, example in enumerate(examples):
        (tmp_path / f"example_{number}.py").write_text(example)
    scripts = sorted(path.name for path in tmp_path.glob("*.py"))
    assert len(scripts) > 1
    python = str(ordinary_install)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python]
    done = subprocess.run(
        [*command, *scripts], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    last = len(script.read_text().splitlines())
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert errors[0].startswith(f"{script.name}:{last}: error: Incompatible types in assignment")


def test_the_citation_names_this_version(root: Path) -> None:
    """The fields that CFF 1.2.0 demands, and those that must agree with the package."""
    lines = (root / "CITATION.cff").read_text().splitlines()
    fields = dict(re.findall(r"^([a-z-]+): *(.*)$", "\n".join(lines), re.MULTILINE))
    assert {"cff-version", "message", "title", "authors"} <= fields.keys()
    assert (fields["cff-version"], fields["license"]) == ("1.2.0", "Apache-2.0")
    assert fields["version"].strip('"') == __version__
    pyproject = (root / "pyproject.toml").read_text()
    assert f'version = "{__version__}"' in pyproject

"""What an ordinary install brings: one package, with its data, and nothing beside it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools")


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
    assert {"autoprune/demo/digits_cnn.safetensors", "autoprune/py.typed"} <= names
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

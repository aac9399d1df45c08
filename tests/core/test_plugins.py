from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.core.plugins import absolute_object, load_object, modules_of_files, names_object
from autoprune.data import absolute_data
from autoprune.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a package, a file beside another, and files that cannot be run."""
    (tmp_path / "plug_pack").mkdir()
    (tmp_path / "plug_pack" / "__init__.py").touch()
    (tmp_path / "plug_pack" / "nets.py").write_text("def resnet(): return 1\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "plug_helper.py").write_text("value = 5\n")
    (tmp_path / "sub" / "net.py").write_text("from plug_helper import value\nclass Net: pass\n")
    (tmp_path / "bad.py").write_text("import plug_absent\n")
    (tmp_path / "exits.py").write_text("import sys; sys.exit(3)\n")
    (tmp_path / "typo.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # restores sys.path afterwards
    return tmp_path


def test_module_in_the_current_directory(folder: Path) -> None:
    assert load_object("plug_pack.nets:resnet", "model")() == 1


def test_file_with_its_neighbours(folder: Path) -> None:
    assert load_object("sub/net.py:value", "reward") == 5


def test_modules_of_files_are_those_that_were_named(folder: Path) -> None:
    before = modules_of_files()
    load_object("plug_pack.nets:resnet", "model")
    load_object("sub/net.py:value", "reward")
    (net,) = [one for one in modules_of_files() if one not in before]
    assert net.__file__ == str(folder / "sub" / "net.py")


def test_paths_that_mean_the_same_in_any_folder(folder: Path) -> None:
    assert absolute_object("sub/net.py:Net") == f"{folder}/sub/net.py:Net"
    assert absolute_object("plug_pack.nets:resnet") == "plug_pack.nets:resnet"
    for given, expected in {
        "digits": "digits",
        "cifar10:sub": f"cifar10:{folder}/sub",
        "npz:a.npz,b.npz;val=/c.npz": f"npz:{folder}/a.npz,{folder}/b.npz;val=/c.npz",
        "bad.py:data": f"{folder}/bad.py:data",
    }.items():
        assert absolute_data(given) == expected == absolute_data(expected)


def test_one_file_is_one_module(folder: Path) -> None:
    assert load_object("sub/net.py:Net", "model") is load_object(f"{folder}/sub/net.py:Net", "data")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet", "model 'resnet' names no object: write path/to/file.py:NAME"),
        ("net.py:", "names no object"),
        ("absent.py:f", "model 'absent.py:f': no such file: 'absent.py'"),
        ("plug_absent:f", "no module named 'plug_absent' here"),
        ("plug_pack.net:f", "no module named 'plug_pack.net' here"),
        ("sub/net:f", "'sub/net' is neither a module's name nor a .py file"),
        ("plug_pack.nets:resne", "'plug_pack.nets' has no 'resne'; did you mean 'resnet'?"),
        ("plug_pack:f", "has no 'f'"),
        (
            "bad.py:f",
            "importing 'bad.py' fails: ModuleNotFoundError: No module named 'plug_absent'",
        ),
        ("bad:f", "importing 'bad' fails: ModuleNotFoundError: No module named 'plug_absent'"),
        ("exits.py:f", "importing 'exits.py' fails: SystemExit: 3"),
        ("typo.py:f", "importing 'typo.py' fails: SyntaxError"),
    ],
)
def test_error(folder: Path, spec: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_object(spec, "model")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("any/file.py:name", True),
        ("pack.module:name", True),
        ("json:loads", True),
        ("no_such_module:name", False),
        ("cifar:some/dir", False),
        ("digits", False),
    ],
)
def test_names_object(spec: str, expected: bool) -> None:
    assert names_object(spec) is expected

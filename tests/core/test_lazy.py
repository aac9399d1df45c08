"""Names that are imported once they are used."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprune.core.lazy import imported

PACKAGE = """
from autoprune.core.lazy import names_from

__getattr__ = names_from(__name__, "public")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "lazy_example"
    folder.mkdir()
    (folder / "__init__.py").write_text(PACKAGE)
    (folder / "public.py").write_text("from lazy_example.light import two\n__all__ = ['two']\n")
    (folder / "light.py").write_text("def two(*, times=1):\n    return 2 * times\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "lazy_example"
    for name in [name for name in sys.modules if name.partition(".")[0] == "lazy_example"]:
        del sys.modules[name]


def test_a_public_name_is_imported_when_it_is_used(package: str) -> None:
    found = importlib.import_module(package)
    assert f"{package}.public" not in sys.modules
    assert found.two() == 2 and f"{package}.public" in sys.modules


def test_a_module_of_the_package_imports_no_other(package: str) -> None:
    scope: dict[str, object] = {}
    exec(f"from {package} import light", scope)
    assert scope["light"] is sys.modules[f"{package}.light"]
    assert f"{package}.public" not in sys.modules


def test_all_public_names(package: str) -> None:
    scope: dict[str, object] = {}
    exec(f"from {package} import *", scope)
    assert "two" in scope


def test_a_name_that_is_not_there(package: str) -> None:
    found = importlib.import_module(package)
    for name in ("three", "_three", "__three__"):
        with pytest.raises(AttributeError, match=f"'lazy_example' has no attribute '{name}'"):
            getattr(found, name)


def test_a_function_is_imported_when_it_is_called(package: str) -> None:
    two = imported(f"{package}.light:two")
    assert package not in sys.modules
    assert two(times=3) == 6


@pytest.mark.parametrize("package", ["autoprune.data", "autoprune.importance"])
def test_no_public_name_is_that_of_a_module(package: str) -> None:
    public = importlib.import_module(f"{package}.public")
    for name in public.__all__:
        assert getattr(importlib.import_module(package), name) is getattr(public, name)
        assert importlib.util.find_spec(f"{package}.{name}") is None, name

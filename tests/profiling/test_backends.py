"""Backends by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.cost.latency.conditions import Conditions
from autoprune.errors import UsageError
from autoprune.profiling.backends import portable
from autoprune.profiling.backends.registry import KIND, backend_class, make_backend


@pytest.mark.parametrize("name", KIND.built_in)
def test_built_in_backends_are_found_by_their_names(name: str) -> None:
    assert backend_class(name).name == name and KIND.is_installed(name)


def test_a_class_that_is_not_a_backend_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own_backend.py").write_text("class Runner: ...\n")
    name = f"{tmp_path}/own_backend.py:Runner"
    assert not KIND.is_installed(name)
    with pytest.raises(UsageError, match="is not a subclass of autoprune"):
        backend_class(name)
    with pytest.raises(UsageError, match="own_backend"):
        make_backend(Conditions(backend=name))


def test_what_kits_share_needs_nothing_of_autoprune() -> None:
    source = Path(portable.__file__).read_text(encoding="utf-8")
    assert "from autoprune" not in source and "import autoprune" not in source

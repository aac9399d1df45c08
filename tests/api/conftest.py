from __future__ import annotations

import pytest
from searches import FEW

import autoprune
from autoprune.data import Splits, load_splits
from autoprune.models.demo import load_demo


@pytest.fixture(scope="session")
def digits() -> Splits:
    return load_splits("digits")


@pytest.fixture(scope="session")
def demo(digits: Splits, tmp_path_factory: pytest.TempPathFactory) -> autoprune.Run:
    """One finished search on the demo, not to be changed."""
    output = tmp_path_factory.mktemp("runs") / "demo"
    return autoprune.search(load_demo(), data=digits, output=output, seed=1, **FEW)

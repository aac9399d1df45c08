"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from autoprune.errors import UsageError
from autoprune.models.devices import find_device


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_device("cpu") == torch.device("cpu")
    for available, name in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=available: found)
        assert find_device(None) == torch.device(name)


@pytest.mark.parametrize("name", ["cuda:99", "nonsense", "meta:x"])
def test_missing_devices_are_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be used .*choose one of: cpu"):
        find_device(name)

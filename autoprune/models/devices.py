"""Devices by name."""

from __future__ import annotations

import torch

from autoprune.errors import UsageError, first_line


def find_device(name: str | None) -> torch.device:
    """Return the device with a name; without a name the first GPU, or the CPU if there is none.

    Raises:
        UsageError: the device does not exist or cannot be used.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise UsageError(
            f"device {name!r} cannot be used ({first_line(error)}): "
            f"choose one of: {', '.join(['cpu', *gpus])}."
        ) from error
    return device

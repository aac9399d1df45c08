"""Runs whose networks have something to learn."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def worsened(run: Path, copy: Path, noise: float = 0.4) -> Path:
    """Copy a run, and add noise to the kernels and matrices of its network.

    Args:
        run: the run directory; it is not changed.
        copy: where the copy goes.
        noise: standard deviation, in that of each tensor.
    """
    shutil.copytree(run, copy)
    path = copy / "pruned.safetensors"
    with safe_open(path, "pt") as file:
        header = file.metadata()
    generator = torch.Generator().manual_seed(0)

    def changed(value: torch.Tensor) -> torch.Tensor:
        if value.dim() < 2:
            return value
        return value + noise * value.std() * torch.randn(value.shape, generator=generator)

    save_file({name: changed(value) for name, value in load_file(path).items()}, path, header)
    return copy

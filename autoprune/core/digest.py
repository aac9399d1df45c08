"""Digests of tensors: two that agree are, for all purposes, of the same numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def digest_of(tensors: Iterable[tuple[str, Tensor]], begin: str = "") -> str:
    """Return the SHA-256 of a text and of named tensors, in hexadecimal digits."""
    digest = hashlib.sha256(begin.encode())
    for name, value in tensors:
        digest.update(name.encode())
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()

"""The global random generators, lent to libraries that use them as if they were their own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class OwnRandomness:
    """Random states that a library finds again whenever it runs; everybody else's stay theirs.

    Those of CUDA count where it is in use.
    """

    def __init__(self) -> None:
        """Begin with the states as they are."""
        self._states = _states()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Put the library's states in place, and the others back afterwards."""
        before = _states()
        _place(self._states)
        try:
            yield
        finally:
            self._states = _states()
            _place(before)


def _states() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def _place(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    if states[3]:
        torch.cuda.set_rng_state_all(states[3])

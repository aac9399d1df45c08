"""The states of the global random generators: Python's, NumPy's and PyTorch's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_states() -> tuple[Any, ...]:
    """Return the states as they are; those of CUDA count where it is in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def set_random_states(states: tuple[Any, ...]) -> None:
    """Put back what `random_states` returned."""
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    if states[3]:
        torch.cuda.set_rng_state_all(states[3])


@contextmanager
def kept_random_states() -> Iterator[None]:
    """Put the states back afterwards, whatever is drawn inside; also a decorator."""
    before = random_states()
    try:
        yield
    finally:
        set_random_states(before)


class OwnRandomness:
    """Random states that a library finds again whenever it runs; everybody else's stay theirs.

    Those of CUDA count where it is in use.
    """

    def __init__(self) -> None:
        """Begin with the states as they are."""
        self._states = random_states()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Put the library's states in place, and the others back afterwards."""
        before = random_states()
        set_random_states(self._states)
        try:
            yield
        finally:
            self._states = random_states()
            set_random_states(before)

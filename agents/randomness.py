"""The global random generators, lent to libraries that use them as if they were their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from autoprune.randomness import random_states, set_random_states


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

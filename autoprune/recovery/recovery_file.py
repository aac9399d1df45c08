"""State of an unfinished recovery in a file, from which it goes on to the same weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autoprune.core.digest import digest_of
from autoprune.errors import RunError
from autoprune.training.checkpoints import load_checkpoint, save_checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecoveryFile:
    """A file with the state of one recovery.

    Attributes:
        path: of the file.
        asked: the length as the user gave it, and whatever else shapes the run.
    """

    path: Path
    asked: str

    def save(self, small: nn.Module, state: Mapping[str, Any]) -> None:
        """Write the state of a run that began with a network."""
        save_checkpoint(self.path, {"of": self._key(small), **state})

    def load(self, small: nn.Module) -> dict[str, Any] | None:
        """Return the state of a run that began with this network; None if there is none.

        A file that cannot be read is named, and the run begins again: nothing else is lost.
        """
        if not self.path.exists():
            return None
        try:
            state = load_checkpoint(self.path)
        except RunError as error:
            log.warning("%s; recovery begins again", error)
            return None
        return state if state.get("of") == self._key(small) else None

    def _key(self, small: nn.Module) -> str:
        state = small.state_dict().items()
        return digest_of(((n, one) for n, one in state if isinstance(one, Tensor)), self.asked)

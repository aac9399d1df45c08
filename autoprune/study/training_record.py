"""What a training that begins with a finished run leaves behind."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w
from torch import nn

from autoprune.core.files import save_state, write_whole
from autoprune.core.untrusted import read_toml
from autoprune.errors import RunError, file_fault


class TrainingRecord:
    """Paths and files of fine-tuning, or of training the architecture from new weights.

    Attributes:
        weights_path: the tensors of the best network.
        config_path: the options.
        history_path: the figures of every validation, one JSON object per line.
        checkpoint_path: where an interrupted training goes on.
    """

    def __init__(self, run: Path, from_scratch: bool = False) -> None:
        """Name the files.

        Args:
            run: the run directory.
            from_scratch: whether the training begins with new weights.
        """
        self._run, self._from_scratch = run, from_scratch
        name = "from-scratch" if from_scratch else "finetune"
        weights = name if from_scratch else "finetuned"
        history = f"{name}-history" if from_scratch else "history"
        self.weights_path = run / f"{weights}.safetensors"
        self.config_path = run / f"{name}.toml"
        self.history_path = run / f"{history}.jsonl"
        self.checkpoint_path = run / "checkpoints" / f"{name}.pt"

    @property
    def is_begun(self) -> bool:
        """Whether there is such a training, finished or not."""
        return self.config_path.exists()

    @property
    def goes_on(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.checkpoint_path.exists()

    @property
    def how_to_resume(self) -> str:
        """What is said of a training that was interrupted."""
        if not self.is_begun:
            return "Interrupted before the first step: nothing was written."
        flag, option = (
            (" --from-scratch", ", from_scratch=True") if self._from_scratch else ("", "")
        )
        command = f"autoprune finetune {shlex.quote(str(self._run))} --resume{flag}"
        python = f"autoprune.finetune(…, {str(self._run)!r}, resume=True{option})"
        return f"Interrupted: continue with: {command} (from Python: {python})"

    def remove(self) -> None:
        """Remove what is there."""
        for path in (self.weights_path, self.config_path, self.history_path):
            path.unlink(missing_ok=True)
        self.remove_checkpoint()

    def remove_checkpoint(self) -> None:
        """Remove the checkpoint, and its folder unless there are others."""
        self.checkpoint_path.unlink(missing_ok=True)
        with suppress(OSError):
            self.checkpoint_path.parent.rmdir()

    def save_config(self, config: Mapping[str, Any]) -> None:
        """Write the options."""
        write_whole(self.config_path, lambda p: p.write_text(tomli_w.dumps(config)))

    def load_config(self) -> dict[str, Any]:
        """Return the options.

        Raises:
            RunError: there are none, or the file cannot be read.
        """
        try:
            return read_toml(self.config_path)
        except FileNotFoundError as error:
            raise RunError(
                f"nothing to resume in {str(self._run)!r}: there is no {self.config_path.name} in "
                "it."
            ) from error
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {str(self.config_path)!r}: {file_fault(error)}") from error

    def save_weights(self, model: nn.Module) -> None:
        """Write the tensors of the best network."""
        save_state(self.weights_path, model)

"""What a training leaves behind in a run directory."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w
from jaxtyping import Float64
from torch import Tensor, nn

from autoprune.core.files import load_tensors, save_state, save_tensors, write_whole
from autoprune.core.untrusted import read_toml
from autoprune.errors import RunError, file_fault

_FILES = {
    "finetune": ("finetuned", "finetune", "history"),
    "from_scratch": ("from-scratch", "from-scratch", "from-scratch-history"),
    "train": ("trained", "train", "train-history"),
}
# How a training is continued: the command line, and the call of Python.
_RESUME = {
    "finetune": ("finetune {} --resume", "finetune(…, {!r}, resume=True)"),
    "from_scratch": (
        "finetune {} --resume --from-scratch",
        "finetune(…, {!r}, resume=True, from_scratch=True)",
    ),
    "train": ("train --resume --output {}", "train(…, output={!r}, resume=True)"),
}


class TrainingRecord:
    """Paths and files of a training.

    It is fine-tuning, training the architecture from new weights, or training with a method, which
    comes before the cut.

    Attributes:
        weights_path: the tensors of the best network.
        config_path: the options.
        history_path: the figures of every validation, one JSON object per line.
        checkpoint_path: where an interrupted training goes on.
        scores_path: of training with a method, what it learnt of every unit.
    """

    def __init__(self, run: Path, kind: str = "finetune") -> None:
        """Name the files.

        Args:
            run: the run directory.
            kind: "finetune", "from_scratch" or "train".
        """
        self._run, self._kind = run, kind
        weights, name, history = _FILES[kind]
        self.weights_path = run / f"{weights}.safetensors"
        self.config_path = run / f"{name}.toml"
        self.history_path = run / f"{history}.jsonl"
        self.checkpoint_path = run / "checkpoints" / f"{name}.pt"
        self.scores_path = run / f"{weights}-scores.safetensors"

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
        return f"Interrupted: continue with: {self.resume_command}"

    @property
    def resume_command(self) -> str:
        """The command line that goes on with the training, and the call of Python."""
        command, python = _RESUME[self._kind]
        folder = str(self._run)
        shell = f"autoprune {command.format(shlex.quote(folder))}"
        return f"{shell} (from Python: autoprune.{python.format(folder)})"

    def remove(self) -> None:
        """Remove what is there."""
        own = self.weights_path, self.config_path, self.history_path, self.scores_path
        for path in own:
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

    def save_scores(self, scores: Mapping[str, Float64[Tensor, " _units"]]) -> None:
        """Write what training with a method learnt of every unit, by group."""
        save_tensors(self.scores_path, scores)

    def load_scores(self) -> dict[str, Tensor]:
        """Return what training with a method learnt of every unit, by group.

        Raises:
            RunError: the run is no such training, is not finished, or the file is damaged.
        """
        try:
            return load_tensors(self.scores_path)
        except FileNotFoundError as error:
            raise RunError(
                f"{str(self._run)!r} is no run of autoprune train that has come to the cut: there "
                f"is no {self.scores_path.name} in it."
            ) from error
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {str(self.scores_path)!r}: {file_fault(error)}") from error

    def save_weights(self, model: nn.Module) -> None:
        """Write the tensors of the best network."""
        save_state(self.weights_path, model)

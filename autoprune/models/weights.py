"""Trained weights from files, read without running code."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autoprune.core.files import StateDict, check_finite, misfits
from autoprune.core.pytorch_files import OversizedFile, load_pytorch
from autoprune.errors import ModelError, UsageError, did_you_mean, first_line, listed, type_of

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
# Limit on nested wrappers and prefixes: a file can contain itself.
_MAX_NESTING = 8


def load_weights(model: nn.Module, file: str) -> None:
    """Load the weights in a file into a network.

    Args:
        model: the network.
        file: safetensors, or a file that `torch.load(weights_only=True)` reads: a state dict, or a
            checkpoint that holds one under "state_dict", "model_state_dict" or "model".

    Raises:
        UsageError: the file is missing or damaged, could run code, or holds no state dict.
        ModelError: the weights do not fit the network, or are not finite.
    """
    state = _state_dict(_read(_existing(file)), file)
    own = model.state_dict()
    tensors = {name: value for name, value in own.items() if isinstance(value, Tensor)}
    _check_fit(tensors, state, file)
    try:
        check_finite(state, tensors)
    except ValueError as error:
        raise ModelError(f"weights {file!r} hold {first_line(error)}.") from error
    try:
        model.load_state_dict(state.with_defaults(own), strict=False)
    except Exception as error:  # tensors without data, or a module's own loading code
        raise ModelError(f"weights {file!r} cannot be used: {first_line(error)}.") from error


def _existing(file: str) -> Path:
    path = Path(file).expanduser()
    if not os.path.isfile(path):  # False if it cannot be a path
        raise UsageError(f"weights {file!r}: {_why_no_file(path)}")
    if path.stat().st_size == 0:
        raise UsageError(f"weights {file!r}: the file is empty.")
    return path


def _why_no_file(path: Path) -> str:
    if os.path.isdir(path):
        return "that is a directory; name the file in it."
    if os.path.exists(path):
        return "that is a device or a pipe; name an ordinary file."
    if not os.path.isdir(path.parent):
        return f"no such directory: {str(path.parent)!r}."
    alike = [
        one.name for one in path.parent.iterdir() if one.suffix == path.suffix and one.is_file()
    ]
    hint = f"; {did_you_mean(path.name, alike)}" if path.suffix and alike else "."
    return f"no such file in {str(path.parent)!r}{hint}"


def _read(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and TorchScript
            return _READERS.get(path.suffix, load_pytorch)(path)
    except OSError:
        raise
    except OversizedFile as error:
        raise UsageError(f"weights {str(path)!r} cannot be read: {error}.") from error
    except Exception as error:  # torch.load and safetensors raise nearly anything
        raise UsageError(f"weights {str(path)!r}: {_why_unreadable(error)}") from error


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


_READERS: dict[str, Callable[[Path], Any]] = {".safetensors": _read_safetensors}


def _why_unreadable(error: Exception) -> str:
    needed = re.search(r"Unsupported (?:global|class)\W+(?:GLOBAL )?([\w.]+)", str(error))
    if needed or "TorchScript" in str(error):
        what = needed[1] if needed else "TorchScript"
        return (
            f"not loaded because it could run code (it holds {what}): where you trust it, convert "
            "it with torch.save(model.state_dict(), FILE) or to safetensors."
        )
    return (
        "the file is damaged, or neither safetensors (named *.safetensors) nor a state dict "
        f"written by torch.save ({type(error).__name__})."
    )


def _state_dict(content: Any, file: str) -> StateDict:
    """Remove wrappers and prefixes from the content of a file."""
    for _ in range(_MAX_NESTING):
        known = content if isinstance(content, Mapping) else {}
        inner = (known[w] for w in _WRAPPERS if isinstance(known.get(w), Mapping))
        content = next(inner, content)
    how = "write them with torch.save(model.state_dict(), FILE)."
    if not isinstance(content, Mapping) or not content:
        what = type_of(content) if content else f"an empty {type(content).__name__}"
        raise UsageError(f"weights {file!r} hold {what} instead of a state dict: {how}")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise UsageError(
                f"weights {file!r} do not hold a state dict: {name!r} is {type_of(value)}, not a "
                f"tensor; {how}"
            )
    return _without_prefixes(content)


def _without_prefixes(state: Mapping[str, Tensor]) -> StateDict:
    plain = {str(name): tensor for name, tensor in state.items()}
    notes = _notes(state)
    for _ in range(_MAX_NESTING):
        prefix = next((p for p in _PREFIXES if all(n.startswith(p) for n in plain)), "")
        plain = {name.removeprefix(prefix): tensor for name, tensor in plain.items()}
        # The network itself is called "", and inside a wrapper "module".
        notes = {f"{path}.".removeprefix(prefix)[:-1]: own for path, own in notes.items()}
    found = StateDict(plain)
    found._metadata = notes or None
    return found


def _notes(state: Mapping[str, Tensor]) -> dict[str, Mapping[str, Any]]:
    """Return the metadata that modules store in a state dict (mostly versions), by module name."""
    notes = getattr(state, "_metadata", None)
    known = notes.items() if isinstance(notes, Mapping) else ()
    return {str(path): own for path, own in known if isinstance(own, Mapping)}


def _check_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], file: str) -> None:
    # Safetensors store tied weights once, and old checkpoints lack the counter of BN.
    tied = {own[name].data_ptr() for name in own.keys() & state.keys()}
    missing = [
        name
        for name, tensor in own.items()
        if name not in state
        and tensor.data_ptr() not in tied
        and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in state if name not in own]
    faults = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape or type": misfits(state, own),
    }
    text = "; ".join(f"{fault}: {listed(names)}" for fault, names in faults.items() if names)
    if text:
        raise ModelError(
            f"weights {file!r} do not fit the model: {text}. Give the file that belongs to it."
        )

"""Files that are never half there."""

from __future__ import annotations

import json
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from autoprune.core.records import plain, read
from autoprune.core.untrusted import check_regular, parse_json
from autoprune.errors import RunError, UsageError, first_line, shown

# Where the header of a file of weights says what `StateDict` knows besides the tensors.
BESIDES = "state_dict"
_DRAFT = ".part"


def as_path(value: str | os.PathLike[str], name: str) -> Path:
    """Return the path that an argument of a public function names.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{name} must be a path, but got {shown(value)}.")
    return Path(value)


def is_draft(path: Path) -> bool:
    """Return whether a file was left by a `write_whole` whose process was killed."""
    return path.name.startswith(".") and path.name.endswith(_DRAFT)


def check_writable(path: Path, option: str, is_folder: bool = False) -> None:
    """Refuse a place where nothing can be written, before the work that is to be written there.

    Args:
        path: of a file or folder, there or not; folders above it that are missing can be made.
        option: that named it, which opens the message: "--output".
        is_folder: whether it is a folder that is to be written.

    Raises:
        RunError: it cannot be written or made.
    """
    there = next((one for one in (path, *path.absolute().parents) if os.path.lexists(one)), path)
    if there != path and not there.is_dir():
        raise RunError(f"{option} {str(path)!r} cannot be made: {str(there)!r} is not a directory.")
    if there == path and path.is_dir() != is_folder:
        kind, wanted = ("a file", "a directory") if is_folder else ("a directory", "a file")
        raise RunError(f"{option} {str(path)!r} is {kind}: name {wanted}.")
    if not os.access(there, os.W_OK):
        raise RunError(
            f"{option} {str(path)!r} cannot be written: no permission to write {str(there)!r}, or "
            "its file system is read-only; choose another."
        )


def check_place(path: Path, is_folder: bool = False) -> None:
    """Refuse what lies in the place of a run's file: the run may come from anybody.

    A link leads those who write there to another place, and those who publish what is there; a pipe
    blocks them.

    Args:
        path: of the file or folder, there or not.
        is_folder: whether it is to be a folder.

    Raises:
        RunError: there is anything else.
    """
    is_usual = path.is_dir() if is_folder else path.is_file()
    if os.path.lexists(path) and (path.is_symlink() or not is_usual):
        wanted = "folder" if is_folder else "file"
        found = "a link" if path.is_symlink() else f"no {wanted}"
        raise RunError(f"{str(path)!r} is {found}: remove it, or put the {wanted} itself there.")


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside the file and rename: readers see the old file or the new one, whole.

    So they do after a power failure. The umask says who may read it. What is there may come from
    anybody: links are replaced, never written through.

    Args:
        path: of the file, in a folder that is there.
        write: writes everything to the path that it is given.
    """
    draft = path.with_name(f".{path.name}{_DRAFT}")
    draft.unlink(missing_ok=True)
    try:
        draft.touch()
        mode = stat.S_IMODE(draft.stat().st_mode)
        write(draft)
        draft.chmod(mode)  # safetensors would let nobody else read
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
        _sync_folder(path.parent)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder written, where a system can do that."""
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # of file systems that do without
            os.fsync(opened)
    finally:
        os.close(opened)


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], besides: dict[str, str] | None = None
) -> None:
    """Write tensors of any device and layout as safetensors, with texts in the file's header."""
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_whole(path, lambda draft: save_file(own, draft, besides))


class _Besides(msgspec.Struct):
    """What the header says of a network: names of its buffers, and notes of its modules."""

    buffers: list[str]
    modules: dict[str, dict[str, bool | int | float | str]]


class StateDict(OrderedDict[str, Any]):
    """The tensors of a network, as `nn.Module.load_state_dict` takes them.

    Attributes:
        buffers: names of those that are buffers.
        _metadata: what modules noted of their part (versions, mostly), by module name; PyTorch's
            own name for it. None where nothing is known.
    """

    buffers: frozenset[str] = frozenset()
    _metadata: Mapping[str, Mapping[str, Any]] | None = None

    def with_defaults(self, own: Mapping[str, Any]) -> StateDict:
        """Return the same with a network's own notes, and its own state that is no tensor."""
        extra = {name: value for name, value in own.items() if not isinstance(value, Tensor)}
        whole = StateDict({**extra, **self})
        whole.buffers = self.buffers
        whole._metadata = self._metadata or getattr(own, "_metadata", None)
        return whole


def save_state(path: Path, model: nn.Module) -> None:
    """Write a network's tensors as safetensors, and what `StateDict` knows besides as JSON."""
    state = model.state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    buffers = [name for name, _ in model.named_buffers(remove_duplicate=False) if name in tensors]
    notes = getattr(state, "_metadata", {})
    besides = _Besides(buffers, {name: _simple(own) for name, own in notes.items()})
    save_tensors(path, tensors, {BESIDES: json.dumps(plain(besides))})


def load_state(path: Path, own: Mapping[str, Any] | None = None) -> StateDict:
    """Read what `save_state` wrote, or plain safetensors.

    Weights are finite. Masks of −inf are none: what is infinite in the network itself may be, and
    so may buffers that it lacks, which a forward pass makes.

    Args:
        path: of the file.
        own: the state of the network that the tensors are for, if it is there.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no ordinary file, damaged, or holds NaN or infinity.
    """
    state, header = _read(path)
    if BESIDES in header:
        besides = _read_besides(header[BESIDES])
        state.buffers = frozenset(besides.buffers) & state.keys()
        state._metadata = besides.modules
    made = {name: state[name] for name in state.buffers}
    there = {
        name: value
        for name, value in (own or {}).items()
        if name in state and isinstance(value, Tensor) and value.shape == state[name].shape
    }
    check_finite(state, {**made, **there})
    return state


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, each of them finite.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no ordinary file, damaged, or holds NaN or infinity.
    """
    return load_with_texts(path)[0]


def load_with_texts(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Return the same, and the texts in the file's header.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no ordinary file, damaged, or holds NaN or infinity.
    """
    tensors, header = _read(path)
    check_finite(tensors)
    return tensors, header


def _read(path: Path) -> tuple[StateDict, Mapping[str, str]]:
    """Return tensors, and the texts in the file's header."""
    check_regular(path)
    try:
        with safe_open(path, "pt") as file:
            tensors = StateDict({name: file.get_tensor(name) for name in file.keys()})
            header = file.metadata() or {}
    except OSError:
        raise
    except Exception as error:  # safetensors has its own error type
        raise ValueError(first_line(error)) from error
    return tensors, header


def _read_besides(header: str) -> _Besides:
    data = parse_json(header)
    try:
        return read(data, _Besides)
    except ValueError as error:
        raise ValueError("what the header says of modules and buffers was altered") from error


def _simple(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the notes that JSON can hold."""
    return {key: value for key, value in notes.items() if isinstance(value, (int, float, str))}


def check_finite(tensors: Mapping[str, Tensor], usual: Mapping[str, Tensor] | None = None) -> None:
    """Refuse weights with which no network computes anything.

    Args:
        tensors: by name.
        usual: tensors of the same shapes that may be infinite where these are, such as masks.

    Raises:
        ValueError: a tensor holds NaN, or infinity where that is not usual.
    """
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        # Tensors of eight bits know no `isfinite`; nothing that they hold overflows here.
        values = tensor if tensor.element_size() > 1 else tensor.float()
        broken = ~values.isfinite()
        if usual is not None and name in usual:
            broken &= values != usual[name].to(values)
        if bool(broken.any()):
            raise ValueError(f"NaN or infinity in {shown(name)}")


def misfits(tensors: Mapping[str, Tensor], wanted: Mapping[str, Any]) -> list[str]:
    """Return which tensors, of those that are wanted by name, have another shape or kind of number.

    Whole numbers would be taken for weights without a word, complex ones lose their imaginary part.
    """
    return [
        f"{name} (file {_form(tensors[name])}, model {_form(own)})"
        for name, own in wanted.items()
        if name in tensors and isinstance(own, Tensor) and _form(tensors[name]) != _form(own)
    ]


def _form(tensor: Tensor) -> str:
    """Return shape and kind of number, in words."""
    if tensor.layout != torch.strided or tensor.is_meta:
        return f"{tuple(tensor.shape)} that is sparse or without data"
    kind = " complex" if tensor.is_complex() else "" if tensor.is_floating_point() else " whole"
    return f"{tuple(tensor.shape)}{kind}"

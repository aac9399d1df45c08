"""Files that are never half there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside the file and rename: readers see the old file or the new one, whole.

    Args:
        path: of the file, in a folder that is there.
        write: writes everything to the path that it is given.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        write(draft)
        draft.chmod(0o644)  # safetensors would let nobody else read
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any device and layout as safetensors."""
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_whole(path, lambda draft: save_file(own, draft))

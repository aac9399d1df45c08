"""A learnt agent on disk: safetensors with all else in the header; nothing is ever executed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from autoprune.core.files import load_with_texts, save_tensors
from autoprune.core.records import Extent, Name, Natural, plain, read
from autoprune.core.untrusted import parse_json, read_json
from autoprune.errors import RunError, first_line, shown
from autoprune.search_spaces.episode import FEATURES

VERSION = 2
ALGORITHM = "ddpg"
_TENSORS = "agent.safetensors"
# Where its header says `AgentInfo`, as JSON. Older versions wrote that into a file beside it.
_INFO = "agent"
_OLDER = "agent.json"


class AgentInfo(msgspec.Struct, frozen=True):
    """What an agent is and where it learnt.

    Attributes:
        hidden: units of the hidden layers.
        episodes: that it learnt from, over all networks.
        networks: groups of every network that it learnt on, oldest first.
        features: names of what it observes, in order.
        algorithm, version: of the file.
    """

    hidden: tuple[Extent, ...]
    episodes: Natural
    networks: tuple[Extent, ...]
    features: tuple[Name, ...] = FEATURES
    algorithm: Name = ALGORITHM
    version: Natural = VERSION


def save_agent(folder: Path, info: AgentInfo, tensors: Mapping[str, Tensor]) -> None:
    """Write an agent into a folder, as one file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / _TENSORS, tensors, {_INFO: json.dumps(plain(info))})
    (folder / _OLDER).unlink(missing_ok=True)


def load_agent(
    path: Path, hidden: Sequence[int], shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[AgentInfo, dict[str, Tensor]]:
    """Return an agent that fits networks with the given hidden layers.

    Args:
        path: a run directory, its `agent` folder, or a file in that.
        hidden: units of the hidden layers.
        shapes: of the tensors that are wanted, by name; not checked without.

    Raises:
        RunError: there is no agent, it is damaged, or it observes or is built differently.
    """
    folder = _folder(path)
    try:
        tensors, texts = load_with_texts(folder / _TENSORS)
        data = parse_json(texts[_INFO]) if _INFO in texts else read_json(folder / _OLDER)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read the agent in {str(folder)!r}: {first_line(error)}") from error
    wanted = {"algorithm": ALGORITHM, "version": VERSION, "features": list(FEATURES)}
    for key, value in {**wanted, "hidden": list(hidden)}.items():
        found = data.get(key) if isinstance(data, dict) else None
        if found != value:
            raise RunError(
                f"the agent in {str(folder)!r} does not fit: its {key} is {_short(found, value)}."
            )
    found_shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    are_others = shapes is not None and found_shapes != {n: tuple(s) for n, s in shapes.items()}
    if are_others or not all(tensor.is_floating_point() for tensor in tensors.values()):
        raise RunError(f"the agent in {str(folder)!r} does not fit: its tensors are others.")
    try:
        return read(data, AgentInfo), tensors
    except ValueError as error:
        raise RunError(f"the agent in {str(folder)!r} is damaged: {first_line(error)}") from error


def _folder(path: Path) -> Path:
    folder = path.parent if path.is_file() else path
    inner = folder / "agent"
    found = inner if (inner / _TENSORS).exists() else folder
    if not (found / _TENSORS).exists():
        raise RunError(
            f"there is no agent in {str(path)!r}: name the run of a strategy that learns one "
            "(ddpg), or its agent folder."
        )
    return found


def _short(found: Any, wanted: Any) -> str:
    if isinstance(found, list) and isinstance(wanted, list):
        other = [str(item) for item in found if item not in wanted]
        lacking = [str(item) for item in wanted if item not in found]
        more, less = (shown(some) if some else "nothing" for some in (other, lacking))
        return f"different (it has {more} more and lacks {less})"
    return f"{shown(found)} instead of {shown(wanted)}"

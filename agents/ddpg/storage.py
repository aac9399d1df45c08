"""A learnt agent on disk: tensors as safetensors, all else as JSON; nothing is ever executed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from autoprune.core.files import load_tensors, save_tensors, write_whole
from autoprune.core.records import Extent, Name, Natural, plain, read
from autoprune.core.untrusted import read_json
from autoprune.errors import RunError, first_line, shown
from autoprune.search_spaces.episode import FEATURES

VERSION = 2
ALGORITHM = "ddpg"


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
    """Write `agent.json` and `agent.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / "agent.safetensors", tensors)
    text = json.dumps(plain(info), indent=2) + "\n"
    write_whole(folder / "agent.json", lambda draft: draft.write_text(text))


def load_agent(
    path: Path, hidden: Sequence[int], shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[AgentInfo, dict[str, Tensor]]:
    """Return an agent that fits networks with the given hidden layers.

    Args:
        path: a run directory, its `agent` folder, one of the two files in that.
        hidden: units of the hidden layers.
        shapes: of the tensors that are wanted, by name; not checked without.

    Raises:
        RunError: there is no agent, it is damaged, or it observes or is built differently.
    """
    folder = _folder(path)
    try:
        data = read_json(folder / "agent.json")
        tensors = load_tensors(folder / "agent.safetensors")
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
    found = inner if (inner / "agent.json").exists() else folder
    if not (found / "agent.json").exists():
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

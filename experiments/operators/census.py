"""Which operators do networks use? Traces one network of every family and writes what it saw.

    python experiments/operators/census.py experiments/operators/seen.json

Networks of torchvision, timm and transformers (image and audio models) run on the meta device:
nothing is downloaded, nothing is computed. Those that must see numbers are left out, and named.
`page.py` makes `docs/operators.md` of the result.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, TypeAlias

import timm
import torch
import torchvision
from torch import nn
from transformers.models.auto import modeling_auto

from autoprune.structure.tracing.operators import OperatorMode, plain_arithmetic, whole_operators

# Seconds for one network.
LIMIT = 20

Network: TypeAlias = tuple[str, Callable[[], nn.Module], Callable[[nn.Module], dict[str, Any]]]
"""Name, how it is built, and its inputs."""

IMAGE_TASKS = (
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
    "MODEL_FOR_OBJECT_DETECTION_MAPPING",
    "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING",
    "MODEL_FOR_DEPTH_ESTIMATION_MAPPING",
    "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING",
    "MODEL_FOR_BACKBONE_MAPPING",
)
AUDIO_TASKS = ("MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING", "MODEL_FOR_CTC_MAPPING")


class Names(OperatorMode):
    """Notes the names of operators."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Note one."""
        self.seen.add(name)
        return func(*args, **kwargs)


def of_torchvision() -> Iterator[Network]:
    """Yield one network of every file."""
    builder = torchvision.models.get_model_builder
    for name in _one_per_module(torchvision.models.list_models(), builder):
        module = builder(name).__module__
        options = {"weights": None}
        if "weights_backbone" in signature(builder(name)).parameters:
            options["weights_backbone"] = None
        yield name, partial(torchvision.models.get_model, name, **options), partial(_frame, module)


def _frame(module: str, model: nn.Module) -> dict[str, Any]:
    if "detection" in module:
        return {"images": [torch.rand(3, 320, 320)]}
    if "optical_flow" in module:
        return {"image1": torch.rand(1, 3, 128, 128), "image2": torch.rand(1, 3, 128, 128)}
    return {"x": torch.rand(1, 3, *([16] if "video" in module else []), 224, 224)}


def of_timm() -> Iterator[Network]:
    """Yield one network of every file."""
    for name in _one_per_module(timm.list_models(), timm.model_entrypoint):
        yield (
            name,
            partial(timm.create_model, name),
            lambda model: {"x": torch.rand(1, *model.default_cfg["input_size"])},
        )


def of_transformers() -> Iterator[Network]:
    """Yield one network of every configuration and task, at its default size."""
    for task in (*IMAGE_TASKS, *AUDIO_TASKS):
        for config, kinds in getattr(modeling_auto, task).items():
            kind = kinds[0] if isinstance(kinds, tuple) else kinds
            inputs = _sound if task in AUDIO_TASKS else _picture
            yield kind.__name__, partial(_made, kind, config), inputs


def _made(kind: Callable[[Any], nn.Module], config: Callable[[], Any]) -> nn.Module:
    return kind(config())


def _picture(model: nn.Module) -> dict[str, Any]:
    config: Any = model.config
    size = getattr(config, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    image = torch.rand(1, getattr(config, "num_channels", 3), height, width)
    frames = getattr(config, "num_frames", None)
    return {"pixel_values": image if frames is None else image[:, None].repeat(1, frames, 1, 1, 1)}


def _sound(model: nn.Module) -> dict[str, Any]:
    name: str = model.main_input_name
    config: Any = model.config
    bins = getattr(config, "num_mel_bins", 80)
    shape = (1, 16000) if name == "input_values" else (1, 100, bins)
    return {name: torch.rand(shape)}


def _one_per_module(names: list[str], builder: Callable[[str], Any]) -> list[str]:
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(builder(name).__module__, name)
    return list(first.values())


def operators(
    build: Callable[[], nn.Module], inputs: Callable[[nn.Module], dict[str, Any]]
) -> set[str]:
    """Return the names of a network's operators."""
    with torch.device("meta"):
        model = build().eval()
        names, given = Names(), inputs(model)
        with plain_arithmetic(), whole_operators(), names:
            model(*given.values()) if "x" in given else model(**given)
    return names.seen


def _too_long(*_: Any) -> None:
    raise TimeoutError


def main(path: Path) -> None:
    """Trace all networks and write the operators with the libraries that use them."""
    libraries = {"torchvision": of_torchvision, "timm": of_timm, "transformers": of_transformers}
    networks = dict.fromkeys(libraries, 0)
    seen: dict[str, set[str]] = defaultdict(set)
    signal.signal(signal.SIGALRM, _too_long)
    for library, found in libraries.items():
        for name, *parts in found():
            used = _in_time(name, *parts)
            networks[library] += bool(used)
            for operator in used:
                seen[operator].add(library)
    kept = {"networks": networks, "operators": {k: sorted(v) for k, v in sorted(seen.items())}}
    path.write_text(json.dumps(kept, indent=1) + "\n")


def _in_time(name: str, *parts: Any) -> set[str]:
    signal.alarm(LIMIT)
    try:
        return operators(*parts)
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {str(error)[:100]}", flush=True)
        return set()
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

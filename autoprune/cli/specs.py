"""What the words of the command line mean: models, weights, devices, durations, shapes."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType

import torch
from torch import nn

from autoprune.cli.weights import load_weights
from autoprune.errors import AutopruneError, UsageError, did_you_mean, first_line
from autoprune.plugin import load_object, names_object

DEMO, DEMO_DATA = "demo", "digits"
IMAGENET_SHAPE = (3, 224, 224)
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def load_model(spec: str, weights: str | None = None) -> nn.Module:
    """Return the network that a spec names, on the CPU and in evaluation mode.

    Random weights are the same in every process, so that a search with them can be resumed.

    Args:
        spec: `torchvision:NAME`, `timm:NAME`, `path/to/file.py:factory`, `package.module:factory`
            or `demo`; a factory is called without arguments.
        weights: a file of weights; the network's own by default.

    Raises:
        UsageError: the spec or the file cannot be meant, or something is missing.
        ModelError: the weights do not fit, or are not finite.
    """
    form, colon, name = spec.partition(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if form in FORMS and bool(name) == bool(colon) == (form != DEMO):
            model = FORMS[form](name)
        elif form not in FORMS and names_object(spec):
            model = _from_factory(spec)
        else:
            raise UsageError(f"unknown model {spec!r}: {did_you_mean(spec, _examples(form))}")
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


def has_random_weights(spec: str, weights: str | None) -> bool:
    """Return whether a network is untrained for certain."""
    return weights is None and spec.partition(":")[0] in ("torchvision", "timm")


def default_input_shape(spec: str, model: nn.Module) -> tuple[int, ...]:
    """Return the shape of one input, without the batch, if nobody says."""
    if spec == DEMO:
        return (1, 8, 8)
    # timm's networks say what they take.
    return tuple(getattr(model, "pretrained_cfg", {}).get("input_size", IMAGENET_SHAPE))


def _demo(name: str) -> nn.Module:
    from autoprune.demo.network import load_demo

    return load_demo()


def _torchvision(name: str) -> nn.Module:
    models = _optional("torchvision.models", "vision")
    # Detection and segmentation networks would download a backbone.
    _check_name(name, models.list_models(module=models), "torchvision")
    return _call(lambda: models.get_model(name, weights=None), f"torchvision:{name}")


def _timm(name: str) -> nn.Module:
    timm = _optional("timm", "timm")
    if not timm.is_model(name):
        _check_name(name, timm.list_models(), "timm")
    return _call(lambda: timm.create_model(name, pretrained=False), f"timm:{name}")


FORMS: dict[str, Callable[[str], nn.Module]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    DEMO: _demo,
}


def _examples(form: str) -> list[str]:
    """Return what a mistaken spec is compared with; the form alone says enough if it is known."""
    examples = ["torchvision:NAME", "timm:NAME", DEMO, "path/to/file.py:factory"]
    return [e for e in examples if e.partition(":")[0] == form] or examples


def _check_name(name: str, known: Iterable[str], form: str) -> None:
    if name not in (names := list(known)):
        raise UsageError(f"unknown model '{form}:{name}': {did_you_mean(name, names)}")


def _optional(module: str, extra: str) -> ModuleType:
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"models of {package} need the package {package}, which cannot be imported "
            f"({first_line(error)}): pip install 'autoprune[{extra}]'."
        ) from error


def _from_factory(spec: str) -> nn.Module:
    factory = load_object(spec, "model")
    if not callable(factory):
        raise UsageError(
            f"model {spec!r} names no factory: {type(factory).__name__} is not callable."
        )
    return _call(factory, spec)


def _call(factory: Callable[[], object], spec: str) -> nn.Module:
    try:
        model = factory()
    except AutopruneError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UsageError(f"model {spec!r}: making it fails: {reason}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"model {spec!r}: the factory must return a torch.nn.Module, but returned "
            f"a {type(model).__name__}."
        )
    return model


def find_device(name: str | None) -> torch.device:
    """Return the device of that name, by default the first GPU where there is one.

    Raises:
        UsageError: there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise UsageError(
            f"device {name!r} cannot be used ({first_line(error)}): "
            f"choose one of: {', '.join(['cpu', *gpus])}."
        ) from error
    return device


def parse_duration(text: str) -> float:
    """Read "90s", "10m", "1.5h", or plain seconds.

    Returns:
        Seconds.

    Raises:
        UsageError: malformed, zero or negative.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([a-z]?)", text.strip().lower())
    seconds = float(match[1]) * _SECONDS.get(match[2], math.nan) if match else math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(f"time {text!r} is no duration above zero: write e.g. 90s, 10m or 1h.")
    return seconds


def parse_min_keep(texts: Sequence[str]) -> dict[str, float]:
    """Read ["0.2", "layer1.*=0.5"] into ratios by pattern; "*" is the rest.

    Raises:
        UsageError: malformed, or a ratio outside (0, 1].
    """
    ratios: dict[str, float] = {}
    for text in texts:
        pattern, _, number = text.rpartition("=")
        try:
            ratio = float(number)
        except ValueError:
            ratio = math.nan
        if not 0 < ratio <= 1:
            raise UsageError(
                f"min-keep {text!r} is no ratio in (0, 1]: write e.g. 0.2 or 'layer1.*=0.5'."
            )
        ratios[pattern.strip() or "*"] = ratio
    return ratios


def parse_shape(text: str) -> tuple[int, ...]:
    """Read "3x224x224".

    Raises:
        UsageError: malformed, or a length is zero.
    """
    parts = text.lower().split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(
            f"input shape {text!r} is no shape of one input: write e.g. 3x224x224 "
            "(channels x height x width)."
        )
    return tuple(int(part) for part in parts)

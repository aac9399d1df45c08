"""What the words of the command line mean: models, weights, devices, shapes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from types import ModuleType

import torch
from torch import nn

from autoprune.core.plugins import absolute_object, call_factory, make_object, names_object
from autoprune.core.randomness import kept_random_states
from autoprune.errors import UsageError, did_you_mean, first_line, type_of
from autoprune.models import MODEL_FORMS
from autoprune.models.weights import load_weights
from autoprune.structure.surgery import deep_copy
from autoprune.structure.wrappers import plain_network

DEMO, DEMO_DATA = "demo", "digits"
IMAGENET_SHAPE = (3, 224, 224)


def load_model(spec: str, weights: str | None = None) -> nn.Module:
    """Return the network that a spec names, on the CPU and in evaluation mode.

    Random weights are the same in every process, so that a search with them can be resumed.

    Args:
        spec: `torchvision:NAME`, `timm:NAME`, `path/to/file.py:factory`, `package.module:factory`
            or `demo`; a factory is called without arguments.
        weights: a file of weights; the network's own by default.

    Raises:
        UsageError: the spec or the file cannot be meant, or something is missing.
        ModelError: the weights do not fit, or are not finite, or the network cannot be cut.
    """
    form, colon, name = spec.partition(":")
    with kept_random_states():
        torch.manual_seed(0)
        if form in FORMS and bool(name) == bool(colon) == (form != DEMO):
            model = FORMS[form](name)
        elif form not in FORMS and names_object(spec):
            model = _checked(make_object(spec, "model"), spec)
        else:
            raise UsageError(f"unknown model {spec!r}: {did_you_mean(spec, _examples(form))}")
    model = deep_copy(model)  # a factory may return a network that others use, too
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


def absolute_model(spec: str) -> str:
    """Return the spec with whole paths, so that it means the same in any folder."""
    return spec if spec.partition(":")[0] in FORMS else absolute_object(spec)


def has_random_weights(spec: str, weights: str | None) -> bool:
    """Return whether a network is untrained for certain."""
    return weights is None and spec.partition(":")[0] in ("torchvision", "timm")


def default_input_shape(spec: str, model: nn.Module) -> tuple[int, ...]:
    """Return the shape of one input, without the batch, if nobody says."""
    if spec == DEMO:
        return (1, 8, 8)
    # timm's networks say what they take; of others the first convolution tells the channels.
    convolutions = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    channels = next((m.in_channels for m in convolutions), IMAGENET_SHAPE[0])
    usual = (channels, *IMAGENET_SHAPE[1:])
    return tuple(getattr(model, "pretrained_cfg", {}).get("input_size", usual))


def _demo(name: str) -> nn.Module:
    from autoprune.models.demo.network import load_demo

    return load_demo()


def _torchvision(name: str) -> nn.Module:
    models = _optional("torchvision.models", "vision")
    # Detection and segmentation networks would download a backbone.
    _check_name(name, models.list_models(module=models), "torchvision")
    return _made(lambda: models.get_model(name, weights=None), f"torchvision:{name}")


def _timm(name: str) -> nn.Module:
    timm = _optional("timm", "timm")
    if not timm.is_model(name):
        _check_name(name, timm.list_models(), "timm")
    return _made(lambda: timm.create_model(name, pretrained=False), f"timm:{name}")


FORMS: dict[str, Callable[[str], nn.Module]] = dict(
    zip(MODEL_FORMS, (_torchvision, _timm, _demo), strict=True)
)


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


def _made(factory: Callable[[], object], spec: str) -> nn.Module:
    return _checked(call_factory(factory, spec, "model"), spec)


def _checked(model: object, spec: str) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"model {spec!r}: the factory must return a torch.nn.Module, but returned "
            f"{type_of(model)}."
        )
    return plain_network(model)


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

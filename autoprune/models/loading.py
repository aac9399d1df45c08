"""Loading of the network that a model spec names."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable
from types import ModuleType

import torch
from torch import nn

from autoprune.core.plugins import call_factory, make_object, names_object
from autoprune.core.randomness import kept_random_states
from autoprune.errors import UsageError, did_you_mean, first_line, type_of
from autoprune.models import DEMO, MODEL_FORMS
from autoprune.models.weights import load_weights
from autoprune.structure.plain_weights import with_plain_weights
from autoprune.structure.surgery import deep_copy
from autoprune.structure.wrappers import plain_network


def load_model(spec: str, weights: str | None = None) -> nn.Module:
    """Load the network that a spec names, on the CPU and in evaluation mode.

    Random weights are the same in every process, so that a search with them can be resumed.

    Args:
        spec: `torchvision:NAME`, `timm:NAME`, `path/to/file.py:factory`, `package.module:factory`
            or `demo`; a factory is called without arguments.
        weights: a file of weights; None keeps the weights that the network comes with.

    Raises:
        UsageError: the spec is malformed, or something that it names is missing.
        ModelError: the weights do not fit or are not finite, or the network cannot be cut.
    """
    form, colon, name = spec.partition(":")
    with kept_random_states():
        torch.manual_seed(0)
        if form in FORMS and bool(name) == bool(colon) == (form != DEMO):
            model = FORMS[form](name)
        elif form not in FORMS and names_object(spec):
            model = _checked(make_object(spec, "model"), spec)
        else:
            raise UsageError(f"unknown model {spec!r}: {_hint(spec, form)}")
    model = deep_copy(model)  # a factory may return a network that others use, too
    if weights is not None:
        load_weights(model, weights)
    return with_plain_weights(model.eval())


def _demo(name: str) -> nn.Module:
    from autoprune.models.demo.network import load_demo

    return load_demo()


def _torchvision(name: str) -> nn.Module:
    _check_name(name, _torchvision_names(), "torchvision")
    builder = _optional("torchvision.models", "vision").get_model_builder(name)
    # Detection and segmentation networks would download a trained backbone by default.
    untrained = {"weights", "weights_backbone"} & inspect.signature(builder).parameters.keys()
    return _made(lambda: builder(**dict.fromkeys(untrained)), f"torchvision:{name}")


def _timm_names() -> list[str]:
    names: list[str] = _optional("timm", "timm").list_models()
    return names


def _torchvision_names() -> list[str]:
    models = _optional("torchvision.models", "vision")
    names: list[str] = models.list_models(exclude="quantized_*")
    return names


def _timm(name: str) -> nn.Module:
    timm = _optional("timm", "timm")
    if not timm.is_model(name):
        _check_name(name, _timm_names(), "timm")
    return _made(lambda: timm.create_model(name, pretrained=False), f"timm:{name}")


FORMS: dict[str, Callable[[str], nn.Module]] = dict(
    zip(MODEL_FORMS, (_torchvision, _timm, _demo), strict=True)
)


# How the names of networks that packages bring are found, by the form of their specs.
_NAMES = {"torchvision": _torchvision_names, "timm": _timm_names}


def _hint(spec: str, form: str) -> str:
    """Return what to write instead of a wrong spec; of the same form if that is known."""
    if form in FORMS:
        return did_you_mean(spec, [], [DEMO] if form == DEMO else [f"{form}:NAME"])
    named = " or ".join(repr(f"{one}:{spec.lower()}") for one in _NAMES if _has(one, spec.lower()))
    if named:
        return f"did you mean {named}?"
    return did_you_mean(spec, [DEMO], ["torchvision:NAME", "timm:NAME", "path/to/file.py:factory"])


def _has(form: str, name: str) -> bool:
    """Return whether a package is installed and has a network of that name."""
    try:
        return name in _NAMES[form]()
    except UsageError:
        return False


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

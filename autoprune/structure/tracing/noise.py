"""Forward passes without chance: random draws become constants, dropout lets everything through.

A network that draws in its forward pass (a sampled latent, dropout that is always on) gives other
numbers at every run, and draws of another shape once it is cut. Where networks are compared, chance
must not speak.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from autoprune.core.randomness import kept_random_states

Arguments = Mapping[str, Any]
"""Arguments of an operator, by name; those that are left to their defaults are missing."""


def _middle(arguments: Arguments) -> Any:
    return (arguments.get("from", 0.0) + arguments.get("to", 1.0)) / 2


def _above_mean(arguments: Arguments) -> Any:
    # Not the mean, which is often zero: what is multiplied by the draw must still be seen.
    return arguments.get("mean", 0.0) + 0.5 * arguments.get("std", 1.0)


def _first(arguments: Arguments) -> Any:
    return next(iter(arguments.values()))


# What each draw becomes, a constant if it can be; memory that is not initialised is random, too.
DRAWS: Mapping[str, Callable[[Arguments], Any]] = {
    **dict.fromkeys(("rand", "rand_like", "uniform"), _middle),
    **dict.fromkeys(("randn", "randn_like", "normal"), _above_mean),
    **dict.fromkeys(("bernoulli", "exponential", "geometric", "cauchy", "log_normal"), lambda _: 1),
    **dict.fromkeys(("randint", "randint_like", "random"), lambda one: one.get("low", 0)),
    **dict.fromkeys(("empty", "empty_like", "new_empty", "empty_strided"), lambda _: 0),
}
# Draws that give whole numbers unless they are told otherwise.
WHOLE = {"randint"}
# Operators whose first argument is what they give on average.
PASSING = {
    *("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"),
    *("poisson", "_standard_gamma"),
}
ORDERS: Mapping[str, Callable[[Arguments], Tensor]] = {
    "randperm": lambda one: torch.arange(one["n"], device=one.get("device")),
    "multinomial": lambda one: _places(one["self"], one["num_samples"], one.get("replacement")),
}
# Arguments that switch chance on, and the values that switch it off.
SWITCHES = {"dropout_p": 0.0, "dropout": 0.0, "training": False, "train": False}
NOISE = DRAWS.keys() | PASSING | ORDERS.keys()


class WithoutChance(TorchDispatchMode):
    """Runs under a forward pass and takes chance out of every operator."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator."""
        name, kwargs = operator_name(func), dict(kwargs or {})
        if name not in NOISE and torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        arguments = _by_name(func, args, kwargs)
        if name in PASSING:
            return _first(arguments)
        if name in ORDERS:
            return ORDERS[name](arguments)
        if name in DRAWS:
            return _filled(func, name, arguments)
        return func(
            **{**arguments, **{key: SWITCHES[key] for key in SWITCHES.keys() & arguments.keys()}}
        )


def operator_name(func: Any) -> str:
    """Return an operator's name without overload and in-place underscore.

    Those that do not come with PyTorch keep their namespace ("torchvision.deform_conv2d").
    """
    name: str = func.overloadpacket.__name__
    name = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    return name if func.namespace == "aten" else f"{func.namespace}.{name}"


def _by_name(func: Any, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = (argument.name for argument in func._schema.arguments)
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _filled(func: Any, name: str, arguments: Arguments) -> Tensor:
    """Return a tensor of the form that a draw would have, filled with its constant."""
    value, like = DRAWS[name](arguments), _first(arguments)
    if isinstance(value, Tensor):  # drawn around a tensor
        return value
    if func._schema.is_mutable:
        filled: Tensor = like.mul_(0).add_(value)
        return filled
    options = {key: arguments[key] for key in ("dtype", "device") if arguments.get(key) is not None}
    if name in WHOLE:
        options.setdefault("dtype", torch.int64)
    if "size" not in arguments:
        made = torch.zeros_like(like, **options)
    elif isinstance(like, Tensor):
        made = like.new_zeros(arguments["size"], **options)
    else:
        made = torch.zeros(arguments["size"], **options)
    return made + value if value else made


def _places(weights: Tensor, count: int, again: bool | None) -> Tensor:
    shape = (*weights.shape[:-1], count)
    if again:
        return torch.zeros(shape, dtype=torch.int64, device=weights.device)
    return torch.arange(count, device=weights.device).expand(shape)


@contextmanager
def fixed_seeds(seed: int) -> Iterator[None]:
    """Seed every generator that a forward pass may draw from, and restore them afterwards."""
    with kept_random_states():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield

"""Deterministic forward passes: random draws become constants, dropout becomes the identity.

A network that draws random numbers in its forward pass (a sampled latent, dropout that is always
on) returns something else in every run, and draws tensors of another shape once it is cut. Where
networks are compared, randomness must not be mistaken for a difference.
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
from autoprune.structure.tracing.call import operator_name

Arguments = Mapping[str, Any]
"""Arguments of an operator by name; those left to their defaults are missing."""


def _midpoint(arguments: Arguments) -> Any:
    return (arguments.get("from", 0.0) + arguments.get("to", 1.0)) / 2


def _above_mean(arguments: Arguments) -> Any:
    # Not the mean, which is often zero: a tensor that is multiplied by the draw must not vanish.
    return arguments.get("mean", 0.0) + 0.5 * arguments.get("std", 1.0)


def _first(arguments: Arguments) -> Any:
    return next(iter(arguments.values()))


# The constant that replaces each draw. Uninitialised memory counts as random, too.
DRAWS: Mapping[str, Callable[[Arguments], Any]] = {
    **dict.fromkeys(("rand", "rand_like", "uniform"), _midpoint),
    **dict.fromkeys(("randn", "randn_like", "normal"), _above_mean),
    **dict.fromkeys(("bernoulli", "exponential", "geometric", "cauchy", "log_normal"), lambda _: 1),
    **dict.fromkeys(("randint", "randint_like", "random"), lambda one: one.get("low", 0)),
    **dict.fromkeys(("empty", "empty_like", "new_empty", "empty_strided"), lambda _: 0),
}
# Draws of integers by default.
INTEGER_DRAWS = {"randint"}
# Operators whose expected value is their first argument.
UNBIASED = {
    *("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"),
    *("poisson", "_standard_gamma"),
}
ORDERS: Mapping[str, Callable[[Arguments], Tensor]] = {
    "randperm": lambda one: torch.arange(one["n"], device=one.get("device")),
    "multinomial": lambda one: _indices(one["self"], one["num_samples"], one.get("replacement")),
}
# Arguments that switch randomness on, and the values that switch it off.
SWITCHES = {"dropout_p": 0.0, "dropout": 0.0, "training": False, "train": False}
RANDOM_OPERATORS = DRAWS.keys() | UNBIASED | ORDERS.keys()


class DeterministicMode(TorchDispatchMode):
    """Makes every random operator of a forward pass deterministic."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator."""
        name, kwargs = operator_name(func), dict(kwargs or {})
        if name not in RANDOM_OPERATORS and torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        arguments = _by_name(func, args, kwargs)
        if name in UNBIASED:
            return _first(arguments)
        if name in ORDERS:
            return ORDERS[name](arguments)
        if name in DRAWS:
            return _filled(func, name, arguments)
        return func(
            **{**arguments, **{key: SWITCHES[key] for key in SWITCHES.keys() & arguments.keys()}}
        )


def _by_name(func: Any, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = (argument.name for argument in func._schema.arguments)
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _filled(func: Any, name: str, arguments: Arguments) -> Tensor:
    """Return a tensor with the shape and type of the draw, filled with the draw's constant."""
    value, like = DRAWS[name](arguments), _first(arguments)
    if isinstance(value, Tensor):  # the draw's mean is a tensor
        return value
    if func._schema.is_mutable:
        filled: Tensor = like.mul_(0).add_(value)
        return filled
    options = {key: arguments[key] for key in ("dtype", "device") if arguments.get(key) is not None}
    if name in INTEGER_DRAWS:
        options.setdefault("dtype", torch.int64)
    if "size" not in arguments:
        made = torch.zeros_like(like, **options)
    elif isinstance(like, Tensor):
        made = like.new_zeros(arguments["size"], **options)
    else:
        made = torch.zeros(arguments["size"], **options)
    return made + value if value else made


def _indices(weights: Tensor, count: int, replacement: bool | None) -> Tensor:
    shape = (*weights.shape[:-1], count)
    if replacement:
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

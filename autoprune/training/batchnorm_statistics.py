"""What batch norms hold when training begins."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.core.precision import at_least_single
from autoprune.data.forms import Inputs
from autoprune.structure.inputs import outputs_of, run
from autoprune.structure.surgery import deep_copy


@torch.no_grad()
def with_own_statistics(
    model: nn.Module, batches: Iterable[Inputs], frozen: Collection[str] = ()
) -> nn.Module:
    """Return a copy that computes the same, in which every BN holds the statistics of its inputs.

    Repair and recovery fit weights to the running statistics as they are. In training mode, though,
    a BN normalises by its batch, and the network would begin as another one. Gains and shifts make
    up for new statistics: γ' = γσ'/σ, β' = β + γ(μ' − μ)/σ.

    Args:
        model: a network, as a search hands it over.
        batches: inputs whose statistics are taken, augmented as in training; weighed equally.
        frozen: names of parameters and buffers that stay; a BN that has one stays whole.

    Returns:
        The copy, in evaluation mode; the network itself if that would compute something else, as it
        might with a user's own kind of BN.
    """
    changed, further = deep_copy(model).eval(), iter(batches)
    first = next(further)
    before, norms = run(changed, first), _changeable(changed, frozen)
    for norm, mean, variance in _statistics(changed, norms, chain([first], further)):
        old, new = (
            (at_least_single(one) + norm.eps).sqrt() for one in (norm.running_var, variance)
        )
        gain = at_least_single(norm.weight) / old
        norm.bias.add_(gain * (mean - norm.running_mean))
        norm.weight.copy_(gain * new)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
    return changed if _are_equal(before, run(changed, first)) else model


def _changeable(model: nn.Module, frozen: Collection[str]) -> list[Any]:
    """Return the BNs with gains, shifts and statistics that may all change."""
    return [
        module
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and module.affine
        and module.running_mean is not None
        and not any(f"{path}.{name}".lstrip(".") in frozen for name in module.state_dict())
    ]


def _statistics(
    model: nn.Module, norms: Iterable[Any], batches: Iterable[Inputs]
) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """Yield BNs with mean and variance by channel of what they read, over batches and calls."""
    moments: dict[Any, list[Tensor]] = {}

    def read(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs = at_least_single(args[0]).transpose(0, 1).flatten(1)
        moments.setdefault(norm, []).append(torch.stack([inputs.mean(1), inputs.square().mean(1)]))

    with ExitStack() as hooks:
        for norm in norms:
            hooks.callback(norm.register_forward_pre_hook(read).remove)
        for batch in batches:
            run(model, batch)
    for norm, found in moments.items():
        mean, square = torch.stack(found).mean(0)
        yield norm, mean, (square - mean.square()).clamp_min(0)


def _are_equal(one: Any, other: Any) -> bool:
    """Return whether all outputs are equal but for rounding."""
    own, theirs = outputs_of(one), outputs_of(other)
    return own.keys() == theirs.keys() and all(
        own[place].shape == theirs[place].shape and _is_near(own[place], theirs[place])
        for place in own
    )


def _is_near(one: Tensor, other: Tensor) -> bool:
    size = 1e-3 * float(one.abs().max()) if one.numel() else 0.0
    return torch.allclose(one.double(), other.double(), rtol=1e-3, atol=size)

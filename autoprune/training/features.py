"""What the last pooling of a network reads, to be matched with the dense network's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autoprune.core.precision import at_least_single
from autoprune.errors import UsageError, spelt
from autoprune.structure.inputs import Inputs, run
from autoprune.structure.surgery import Keep

POOLINGS = frozenset(
    f"{form}{kind}_pool{dims}d"
    for form in ("", "adaptive_")
    for kind in ("avg", "max")
    for dims in (1, 2, 3)
) | {"mean"}
# Smaller mean squares of features count as this.
SMALLEST_POWER = 1e-6


_is_own: ContextVar[bool] = ContextVar("_is_own", default=True)


@contextmanager
def apart() -> Iterator[None]:
    """Around, or decorating, what runs inside a forward pass but is no part of the network.

    Its poolings are not the network's.
    """
    before = _is_own.set(False)
    try:
        yield
    finally:
        _is_own.reset(before)


class LastPooling(TorchFunctionMode):
    """Records the input of the last pooling of a forward pass.

    Attributes:
        source: the input, (samples, channels, positions…); None if nothing was pooled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.source: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Record the input of one call."""
        given = [*args, *(kwargs or {}).values()]
        source = given[0] if given else None
        pools = _is_own.get() and getattr(func, "__name__", "") in POOLINGS
        if pools and isinstance(source, Tensor):
            if source.dim() > 2 and source.is_floating_point():
                self.source = source
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, eq=False)
class FeatureMatching:
    """Compares what the last pooling of two networks reads.

    Attributes:
        weight: of the error in the loss.
        kept: channels of the dense network that the cut one has; None for all.
    """

    weight: float
    kept: Tensor | None = None

    def error(self, own: LastPooling, dense: LastPooling) -> Float[Tensor, ""]:
        """Return the squared error relative to the mean square of the dense features.

        Raises:
            UsageError: one of the networks pools nothing.
        """
        if own.source is None or dense.source is None:
            raise _nothing_pooled()
        wanted = at_least_single(dense.source.detach())
        if self.kept is not None:
            wanted = wanted.index_select(1, self.kept.to(wanted.device))
        power = wanted.square().mean().clamp_min(SMALLEST_POWER)
        return F.mse_loss(at_least_single(own.source), wanted) / power


def match_features(
    dense: nn.Module, small: nn.Module, keep: Keep, inputs: Inputs, weight: float
) -> FeatureMatching:
    """Return how features of a cut network are compared with the dense network's.

    Which channels are left is known from the layer behind the pooling.

    Args:
        dense: the dense network, in evaluation mode.
        small: the cut network, in evaluation mode.
        keep: entries of the dense network's tensors that it has.
        inputs: a batch.
        weight: of the error in the loss.

    Raises:
        UsageError: nothing is pooled, or no layer says which channels are left.
    """
    channels = []
    for network in (dense, small):
        with torch.no_grad(), LastPooling() as pooling:
            run(network, inputs)
        if pooling.source is None:
            raise _nothing_pooled()
        channels.append(pooling.source.shape[1])
    before, after = channels
    if before == after:
        return FeatureMatching(weight)
    for name, parameter in reversed([*dense.named_parameters()]):
        kept = keep.get(name, {}).get(1)
        if parameter.dim() > 1 and parameter.shape[1] == before and kept is not None:
            if len(kept) == after:
                return FeatureMatching(weight, kept)
    raise UsageError(
        "which channels are left in front of the last pooling is not known: leave out "
        f"{spelt('distill_features')}."
    )


def _nothing_pooled() -> UsageError:
    return UsageError(
        f"the network pools nothing over positions: leave out {spelt('distill_features')}."
    )

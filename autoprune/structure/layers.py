"""What counts as a layer: an operator that multiplies channels by a weight.

`LAYER_KINDS` is the only list of them. Code that sees operators looks an operator's name up there;
code that sees modules checks against `LAYER_MODULES`. Everything else with a weight (embeddings,
recurrent networks, attention) is run and counted, but its channels are not followed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from autoprune.structure.attention import read_own_sizes


@dataclass(frozen=True)
class LayerKind:
    """One kind of layer.

    Attributes:
        operator: its name in ATen and in `torch.nn.functional`.
        module: the PyTorch module that runs it.
        rank: number of spatial dimensions, which follow the channels; a linear layer has none.
        is_transposed: whether the weight is (inputs, outputs / groups, …) instead of
            (outputs, inputs / groups, …).
    """

    operator: str
    module: type[nn.Module]
    rank: int
    is_transposed: bool = False

    @property
    def channel_dim(self) -> int:
        """Dimension of the input and the output that holds the channels, from the end."""
        return -1 - self.rank

    @property
    def in_dim(self) -> int:
        """Dimension of the weight that holds the inputs."""
        return 0 if self.is_transposed else 1


LAYER_KINDS: Mapping[str, LayerKind] = {
    kind.operator: kind
    for kind in (
        LayerKind("linear", nn.Linear, 0),
        LayerKind("conv1d", nn.Conv1d, 1),
        LayerKind("conv2d", nn.Conv2d, 2),
        LayerKind("conv3d", nn.Conv3d, 3),
        LayerKind("conv_transpose1d", nn.ConvTranspose1d, 1, is_transposed=True),
        LayerKind("conv_transpose2d", nn.ConvTranspose2d, 2, is_transposed=True),
        LayerKind("conv_transpose3d", nn.ConvTranspose3d, 3, is_transposed=True),
    )
}
"""Every kind of layer, by its operator."""

LAYER_MODULES = tuple(kind.module for kind in LAYER_KINDS.values())
"""The modules of layers, for `isinstance`."""

# How the names of operators with weights begin: layers and those whose channels are not followed.
_WITH_WEIGHTS = ("conv", "linear", "addmm", "embedding", "gru", "lstm", "rnn")


def has_weights(operator: str) -> bool:
    """Say whether an operator is a layer, or another one that networks apply to their inputs."""
    return operator.startswith(_WITH_WEIGHTS)


def channels(module: Any) -> tuple[int, int]:
    """Return the numbers of input and output channels (or features) of a layer's module."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return module.in_channels, module.out_channels


def update_sizes(module: nn.Module, outputs: Tensor | None = None) -> None:
    """Bring the size attributes of a layer, normalisation or PReLU in line with its tensors.

    Args:
        module: the module; it still has the dense sizes.
        outputs: which outputs of a convolution are left; None for all.
    """
    if outputs is not None and isinstance(module, _ConvNd) and module.groups > 1:
        module.groups = len((outputs // (module.out_channels // module.groups)).unique())
    update = _update_of(module)
    if update is not None:
        update(module)


def has_sizes(module: nn.Module) -> bool:
    """Say whether all of a module's size attributes are those of its tensors."""
    is_bare = isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and module.weight is None
    has_numbers = isinstance(module, (nn.GroupNorm, nn.MultiheadAttention))  # of groups and heads
    return _update_of(module) is not None and not is_bare and not has_numbers


def _update_of(module: nn.Module) -> Callable[[Any], None] | None:
    return next((_UPDATES[kind] for kind in type(module).__mro__ if kind in _UPDATES), None)


def _update_conv(module: _ConvNd) -> None:
    shape = module.weight.shape
    if module.transposed:
        module.in_channels, module.out_channels = shape[0], shape[1] * module.groups
        return
    module.out_channels, module.in_channels = shape[0], shape[1] * module.groups


def _update_linear(module: nn.Linear) -> None:
    module.out_features, module.in_features = module.weight.shape


def _update_norm(module: _NormBase) -> None:
    tensor = module.weight if module.weight is not None else module.running_mean
    assert tensor is not None
    module.num_features = tensor.shape[0]


def _update_layer_norm(module: nn.LayerNorm | nn.RMSNorm) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


def _update_group_norm(module: nn.GroupNorm) -> None:
    if module.weight is not None:
        module.num_channels = module.weight.numel()


def _update_embedding(module: nn.Embedding) -> None:
    module.embedding_dim = module.weight.shape[1]


def _update_prelu(module: nn.PReLU) -> None:
    module.num_parameters = module.weight.numel()


_UPDATES: Mapping[type, Callable[[Any], None]] = {
    nn.MultiheadAttention: read_own_sizes,
    _ConvNd: _update_conv,
    nn.Linear: _update_linear,
    _NormBase: _update_norm,
    nn.LayerNorm: _update_layer_norm,
    nn.RMSNorm: _update_layer_norm,
    nn.GroupNorm: _update_group_norm,
    nn.PReLU: _update_prelu,
    nn.Embedding: _update_embedding,
}

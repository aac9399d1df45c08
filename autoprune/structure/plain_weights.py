"""Weights that a module computes in every forward pass, made plain parameters.

Masks of `torch.nn.utils.prune`, weight and spectral normalisation, all parametrizations and layers
with a forward pass of their own (`computed_layers`) compute a weight from other parameters, so that
its channels are no entries of a parameter. In a pruned copy the computation is done once and for
all: what it gives is what the layer is cut and refitted by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from autoprune.errors import ModelError, listed, user_code
from autoprune.structure.computed_layers import become, plain_layer
from autoprune.structure.surgery import deep_copy


def _remove_spectral_norm(module: nn.Module, name: str) -> None:
    remove_spectral_norm(module, name)
    # PyTorch leaves this hook, which looks for what is no longer there.
    for key, hook in [*module._load_state_dict_pre_hooks.items()]:
        inner = getattr(hook, "hook", hook)
        if isinstance(inner, SpectralNormLoadStateDictPreHook) and inner.fn.name == name:
            del module._load_state_dict_pre_hooks[key]


def _remove_parametrizations(module: nn.Module, name: str) -> None:
    # A copy shares its class with the original, which would lose the property, too.
    kind = type(module)
    module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
    parametrize.remove_parametrizations(module, name)


def _becoming(plain: nn.Module) -> Callable[[nn.Module, str], None]:
    return lambda module, _: become(module, plain)


# Hooks that compute a tensor before a forward pass: the attribute with the tensor's name, a name of
# the hook for messages, and what makes the tensor a parameter again.
_HOOKS: dict[type, tuple[str, str, Callable[[nn.Module, str], object]]] = {
    prune.BasePruningMethod: ("_tensor_name", "torch.nn.utils.prune", prune.remove),
    WeightNorm: ("name", "torch.nn.utils.weight_norm", remove_weight_norm),
    SpectralNorm: ("name", "torch.nn.utils.spectral_norm", _remove_spectral_norm),
}


@dataclass(frozen=True, eq=False)
class _Computed:
    """One tensor that a module computes.

    Attributes:
        module: the module.
        name: of the tensor in it.
        how: what computes it, for messages.
        fix: makes the tensor a parameter in a module.
    """

    module: nn.Module
    name: str
    how: str
    fix: Callable[[nn.Module, str], object]

    def make_plain(self) -> None:
        """Make it a parameter, as it is in evaluation mode."""
        module, was_training = self.module, self.module.training
        origins = (f"{self.name}_", f"parametrizations.{self.name}.")
        named = module.named_parameters()
        found = [one for name, one in named if name == self.name or name.startswith(origins)]
        module.train(False)  # spectral normalisation changes its estimate in training mode
        self.fix(module, self.name)
        module.train(was_training)
        getattr(module, self.name).requires_grad_(any(one.requires_grad for one in found))

    def failed(self, reason: str) -> ModelError:
        """Return the error if it cannot be made a parameter."""
        return ModelError(f"what {self.how} computes cannot be made permanent: {reason}")


def with_plain_weights(model: nn.Module) -> nn.Module:
    """Return a copy whose computed weights are parameters; the network itself if it has none.

    Raises:
        ModelError: a weight cannot be computed.
    """
    if not any(True for _ in _computed(model)):
        return model
    plain = deep_copy(model)
    for one in [*_computed(plain)]:
        with user_code(one.failed):
            one.make_plain()
    return plain


def computed_weights(model: nn.Module) -> dict[str, str]:
    """Return the tensors that modules of a network compute, and by what."""
    paths = {module: path for path, module in model.named_modules()}
    return {f"{paths[one.module]}.{one.name}".strip("."): one.how for one in _computed(model)}


def notes_on_weights(model: nn.Module) -> Iterator[str]:
    """Yield what to say of a network whose weights are made plain."""
    found = computed_weights(model)
    for how in dict.fromkeys(found.values()):
        names = listed([name for name, own in found.items() if own == how])
        yield f"what {how} computes is made permanent in the pruned network: {names}"


def _computed(model: nn.Module) -> Iterator[_Computed]:
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            for kind, (attribute, how, fix) in _HOOKS.items():
                if isinstance(hook, kind):
                    yield _Computed(module, getattr(hook, attribute), how, fix)
        if parametrize.is_parametrized(module):
            for name, steps in module.parametrizations.items():  # type: ignore[union-attr,operator]
                how = " and ".join(type(step).__name__.lstrip("_") for step in steps)
                how = f"the parametrization {how}"
                yield _Computed(module, name, how, _remove_parametrizations)
        plain = plain_layer(module)
        if plain is not None:
            yield _Computed(module, "weight", type(module).__name__, _becoming(plain))

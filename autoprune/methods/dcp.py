"""Discrimination-aware channel pruning: channels are admitted by the gradients of extra heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autoprune.agents.config import Amount, BelowOne, Count, Share
from autoprune.errors import UsageError
from autoprune.methods.base import Goal, Scores, TrainingMethod
from autoprune.methods.own_layers import OwnLayers
from autoprune.methods.segments import Head, Segment, Window, segments
from autoprune.methods.units import (
    Hooked,
    Reweighted,
    all_norms,
    along,
    entries,
    favoured,
    largest,
    output_module,
    readers,
)
from autoprune.structure.surgery import deep_copy
from autoprune.training.features import apart
from autoprune.training.hooks import Moment


@dataclass(frozen=True)
class DiscriminationAwareConfig:
    """When channels are chosen, and by what.

    Attributes:
        heads: classifiers on features inside the network, evenly placed.
        reconstruction: weight of the squared distance from the dense network's features.
        tuning: fraction of the time of each segment in which the network trains with the segment's
            head, before channels are chosen.
        end: fraction of the run at which all channels are chosen; the last step begins before 1.
    """

    heads: Count = 3
    reconstruction: Amount = 1.0
    tuning: Share = 0.5
    end: BelowOne = 0.9


class DiscriminationAwarePruning(TrainingMethod):
    """Discrimination-aware channel pruning for deep neural networks (DCP, Zhuang et al. 2018).

    Heads (BN, ReLU, average pooling, a linear layer) divide the network into segments. One segment
    after the other is trained with L_head + L_final; then the channels that its layers read are
    chosen (algorithm 2): from none, channel k = argmax ‖∂(λ_M L_M + L_S)/∂W_k‖_F is admitted again
    and again, and the admitted ones train from their old values. L_M is the mean squared distance
    of the layers' outputs from the dense network's, L_S the loss of the head behind the segment.
    In the end the rest trains on.

    Three heads and λ_M = 1 are the authors' for ResNet-56. They tune every segment for 100 epochs,
    and take a layer's channels one by one, with an optimizer of the admitted weights alone; here
    both follow the fraction of the run, so that several may be admitted in a step, and the
    fractions are ours. The optimizer is that of the run: weights that are not admitted take no
    gradients, but what is left of their momentum, and weight decay. L_S has the loss of the
    network's own output besides, heads learn what that learns, distillation included, and the
    squared distance is a mean where theirs is half of it. The end by a tolerance on the loss
    (DCP-Adapt) is left out: the budget says how many stay. Costs a pass of the dense network while
    channels are chosen, and another one for heads that are distilled. For classifiers only;
    channels that nothing with free weights reads are ranked by norm.
    """

    name: ClassVar[str] = "dcp"
    config = DiscriminationAwareConfig()

    def check(self, goal: Goal) -> None:
        """Refuse a network without classes."""
        if goal.classes is None:
            raise UsageError(
                f"the method {self.title!r} learns from classes, but the network is no classifier: "
                "choose another method, such as 'group_lasso'."
            )

    def start(self, network: nn.Module) -> None:
        """Make the heads, and remember the dense network."""
        own, structure = self.config, self.goal.structure
        chosen = [
            index
            for index, (group, width) in enumerate(zip(structure.groups, self.widths, strict=True))
            if width < group.size and any(True for _ in readers(group, network))
        ]
        self._segments = segments(structure, chosen, own.heads, own.tuning, own.end)
        like = next(network.parameters())
        generator = torch.Generator().manual_seed(self.goal.seed)
        classes = self.goal.classes
        assert classes is not None  # `check` refuses that
        layers = [one.head for one in self._segments if one.head is not None]
        self._heads = OwnLayers(
            {layer.name: Head(layer, classes, generator).to(like) for layer in layers}
        )
        self._dense = deep_copy(network).eval()
        # By the index of a group, once its channels begin to be chosen.
        self._admitted: dict[int, Bool[Tensor, " _units"]] = {}
        self._squares: dict[int, Float64[Tensor, " _units"]] = {}
        self._completed = 0.0
        # Of the last call.
        self._answers: list[Tensor] = []
        self._features: dict[str, Tensor] = {}
        self._wanted: dict[str, Tensor] = {}

    @property
    def _segment(self) -> Segment | None:
        """The segment that is tuned, or whose channels are chosen."""
        count = len(self._segments)
        share = self._completed / self.config.end if self.config.end else 1.0
        return self._segments[min(int(share * count), count - 1)] if count else None

    @property
    def _choosing(self) -> list[Window]:
        """Windows of the groups of which some channels are still to be chosen."""
        return [
            window
            for segment in self._segments
            for window in segment.windows
            if window.group in self._admitted
            and self._admitted[window.group].sum() < self.widths[window.group]
        ]

    @property
    def _settled(self) -> dict[int, Bool[Tensor, " _units"]]:
        """The channels of the groups of which all that stay are chosen.

        Evaluated, the others are whole: of a group that is just begun nothing would be left.
        """
        choosing = {window.group for window in self._choosing}
        return {index: own for index, own in self._admitted.items() if index not in choosing}

    def called(self, network: nn.Module) -> nn.Module:
        """Return the network with masked weights, whose gradients reach all weights."""
        return Hooked(Reweighted(network, self._masked), lambda: self._attached(network))

    def _masked(self, network: nn.Module) -> Mapping[str, Tensor]:
        found: dict[str, Tensor] = {}
        for index, units in (self._admitted if network.training else self._settled).items():
            for part, weight in readers(self.goal.structure.groups[index], network):
                own = found.get(part.tensor, weight)
                found[part.tensor] = own + (own * along(units, part, weight) - own).detach()
        return found

    def _attached(self, network: nn.Module) -> Iterator[RemovableHandle]:
        self._answers, self._features, self._wanted = [], {}, {}
        if not network.training:
            return
        if (segment := self._segment) is not None and (layer := segment.head) is not None:
            module = network.get_submodule(output_module(layer))
            yield module.register_forward_hook(partial(self._answer, layer.name))
        if self._choosing:
            yield network.register_forward_pre_hook(self._run_dense, with_kwargs=True)
            yield from self._watched(network, self._features)

    @apart()
    def _answer(self, head: str, module: nn.Module, given: Any, output: Tensor) -> None:
        self._answers.append(self._heads[head](output))

    @apart()
    def _run_dense(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        dense = Hooked(self._dense, lambda: self._watched(self._dense, self._wanted))
        with torch.no_grad():
            dense(*args, **kwargs)

    def _watched(self, network: nn.Module, found: dict[str, Tensor]) -> Iterator[RemovableHandle]:
        """Keep the outputs of the layers that read channels which are being chosen."""
        structure = self.goal.structure
        for window in self._choosing:
            for part in structure.groups[window.group].consumers:
                layer = structure.layer_of_weight.get(part.tensor)
                if layer is not None and layer.is_module and layer.takes_bias:
                    module = network.get_submodule(layer.name)
                    yield module.register_forward_hook(partial(_keep, found, layer.name))

    def further_outputs(self) -> Sequence[Tensor]:
        """Return the answers of the segment's head."""
        return self._answers

    def loss(self, network: nn.Module) -> Float[Tensor, ""] | None:
        """Return the distance of features from the dense network's."""
        parts = [F.mse_loss(own, self._wanted[name]) for name, own in self._features.items()]
        return self.config.reconstruction * torch.stack(parts).sum() if parts else None

    def after_backward(self, network: nn.Module, now: Moment) -> None:
        """Admit channels; while they are chosen, nothing trains but what reads them."""
        groups = self.goal.structure.groups
        if choosing := self._choosing:
            read = {part.tensor for w in choosing for part, _ in readers(groups[w.group], network)}
            for name, parameter in network.named_parameters():
                if name not in read:
                    parameter.grad = None
            self._heads.forget()
        for window in choosing:
            self._squares[window.group] += self._gradients(window.group, network)
        for index, units in self._admitted.items():
            for part, weight in readers(groups[index], network):
                if weight.grad is not None:
                    weight.grad.mul_(along(units, part, weight))
        for window in choosing:  # what is admitted now trains from the next step on
            self._admit(window, now.completed)

    def _gradients(self, index: int, network: nn.Module) -> Float64[Tensor, " _units"]:
        """Return the squared norm of the gradient of what reads each unit of a group."""
        group = self.goal.structure.groups[index]
        total = torch.zeros(group.size, dtype=torch.float64)
        for part, weight in readers(group, network):
            if weight.grad is not None:
                total += entries(weight.grad, part).double().square().sum(1).cpu()
        return total

    def _admit(self, window: Window, completed: float) -> None:
        """Admit the best channels of a group if it is time, and begin to compare again."""
        index, admitted = window.group, self._admitted[window.group]
        count = window.count(completed, self.widths[index])
        self._admitted[index] = with_best(admitted, self._squares[index], count)
        if self._admitted[index].sum() > admitted.sum():
            self._squares[index] = torch.zeros_like(self._squares[index])

    def after_step(self, network: nn.Module, now: Moment) -> None:
        """Take a step of the heads; begin with no channel where it is time to choose."""
        self._heads.step(now.rate)
        self._completed = now.completed
        for segment in self._segments:
            for window in segment.windows:
                if now.completed >= window.begin and window.group not in self._admitted:
                    size = self.goal.structure.groups[window.group].size
                    self._admitted[window.group] = torch.zeros(size, dtype=torch.bool)
                    self._squares[window.group] = torch.zeros(size, dtype=torch.float64)

    def finish(self, network: nn.Module) -> nn.Module:
        """Set masked weights to zero."""
        with torch.no_grad():
            for index, units in self._settled.items():
                for part, weight in readers(self.goal.structure.groups[index], network):
                    weight.mul_(along(units, part, weight))
        return network

    def scores(self, network: nn.Module) -> Scores:
        """Return norms of filters, those of admitted channels first."""
        norms = all_norms(self.goal.structure, network)
        whole = [torch.ones(len(own), dtype=torch.bool) for own in norms]
        return favoured([self._admitted.get(i, own) for i, own in enumerate(whole)], norms)

    def state(self) -> dict[str, Any]:
        """Return the channels, gradients so far, and heads."""
        own = {"admitted": dict(self._admitted), "squares": dict(self._squares)}
        return {**own, "completed": self._completed, "heads": self._heads.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        self._admitted, self._squares = dict(state["admitted"]), dict(state["squares"])
        self._completed = float(state["completed"])
        self._heads.load_state(state["heads"])


def _keep(found: dict[str, Tensor], name: str, module: nn.Module, given: Any, out: Tensor) -> None:
    found[name] = out


def with_best(
    admitted: Bool[Tensor, " units"], values: Float64[Tensor, " units"], count: int
) -> Bool[Tensor, " units"]:
    """Return the admitted units and as many of the best others as there are to be."""
    return largest(values.masked_fill(admitted, torch.inf), max(count, int(admitted.sum())))

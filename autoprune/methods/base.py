"""The contract of a training method: it shapes a network while it trains, and says what may go."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from jaxtyping import Float64
from torch import Tensor, nn

from autoprune.agents.config import NoOptions, configured
from autoprune.core.policy import Widths
from autoprune.data import Samples
from autoprune.errors import UsageError, shown
from autoprune.structure.groups import Structure
from autoprune.training.hooks import Hooks

if TYPE_CHECKING:
    from typing_extensions import Self

Scores: TypeAlias = Sequence[Float64[Tensor, " _units"]]
"""One value for every unit of every group: larger is more important, on one scale for all."""


@dataclass(frozen=True, eq=False)
class Goal:
    """What a network is shaped for.

    Attributes:
        structure: its channel groups, verified.
        network: the given network, which must not be changed.
        widths: units per group that it will be cut to if every group keeps the same share; None
            without a budget.
        below_threshold: returns the widths at the least threshold on scores with which the budget
            holds; None without a budget.
        classes: number of classes that the network tells apart; None if it is no classifier.
        seed: of whatever the method draws at random.
        samples: of the training split, which a method may look at before training; None if there
            are none.
    """

    structure: Structure
    network: nn.Module
    widths: Widths | None = None
    below_threshold: Callable[[Scores], Widths] | None = None
    classes: int | None = None
    seed: int = 0
    samples: Samples | None = None


class TrainingMethod(Hooks, ABC):
    """Shapes a network while it trains.

    The training loop calls the hooks. A method knows the network by its `ChannelGroup`s: which
    entries of which tensors belong to each unit says all about residual streams, depthwise layers
    and concatenations. What it computes inside the network's forward pass, such as in hooks, runs
    `autoprune.training.features.apart` from it. Weights that keep their values (`requires_grad` is
    False) are left alone. What the network is cut to afterwards follows from `scores`.

    A method with options has a frozen dataclass of them, with its defaults as the class attribute
    `config`; `Slimming(sparsity=1e-4)` sets a field of `self.config`.

    Attributes:
        name: what it is called in `--method` and in messages.
        config: its options.
        is_repaired: whether the cut is repaired, as that of a search is; by default it is.
        needs_training: whether the method does nothing without epochs before the cut.
        least_score: without a budget, units with larger scores stay; None if the method needs a
            budget.
        goal: what the network is shaped for.
    """

    name: ClassVar[str] = ""
    config: Any = NoOptions()
    keeps_last = True
    is_repaired: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True
    goal: Goal

    def __init__(self, config: Any = None, **options: Any) -> None:
        """Take a config, or the options in it that are not the defaults.

        Raises:
            UsageError: an option that there is not, of the wrong type, or out of range.
        """
        owner, defaults = f"the method {self.title!r}", type(self).config
        if config is not None and not isinstance(config, type(defaults)):
            wanted = type(defaults).__name__
            raise UsageError(f"{owner} takes a {wanted}, but got {shown(config)}.")
        self.config = configured(defaults if config is None else config, options, owner)

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return self.name or type(self).__name__

    @property
    def least_score(self) -> float | None:
        """Without a budget, units with larger scores stay; None if a budget is needed."""
        return None

    def prepared(self, goal: Goal) -> Self:
        """Return a fresh copy for one training; this one stays as it is.

        Raises:
            UsageError: the method cannot shape such a network, or needs a budget.
        """
        fresh = copy.deepcopy(self)
        fresh.goal = goal
        fresh.check(goal)
        return fresh

    def check(self, goal: Goal) -> None:
        """Refuse a network that the method can do nothing with; overridden where needed.

        Raises:
            UsageError: it can do nothing.
        """

    @property
    def widths(self) -> Widths:
        """Units per group that a method aims at which needs a budget."""
        assert self.goal.widths is not None  # `check_method` of the engine refuses that
        return self.goal.widths

    @property
    def merges(self) -> bool:
        """Whether the network is merged before it is cut."""
        return type(self).merge is not TrainingMethod.merge

    def merge(self, network: nn.Module) -> nn.Module:
        """Return the network in which units that are to go do nothing; here, as it is.

        What that changes is what a method which promises a lossless cut has left to learn.

        Args:
            network: a copy of what `finish` returned, which may be changed.
        """
        return network

    @abstractmethod
    def scores(self, network: nn.Module) -> Scores:
        """Return what was learnt of every unit.

        Args:
            network: that `finish` returned; it must not be changed.
        """

    def figures(self, network: nn.Module) -> Mapping[str, Any]:
        """Return what else `result.json` says of a shaped network, by keys of its own."""
        return {}

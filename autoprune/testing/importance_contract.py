"""The contract of an importance criterion, as tests."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.importance import Evidence, Importance, rank_groups
from autoprune.importance.ranking import LABELLED
from autoprune.statistics.collect import collect_moments
from autoprune.structure.groups import ChannelGroup
from autoprune.structure.tracing.trace import trace
from autoprune.testing.small_networks import (
    IMAGES,
    LABELS,
    NETWORKS,
    block,
    head,
    plain,
    randomized,
    without_batchnorm,
)


class ImportanceContract:
    """Tests that every criterion passes; override `make`.

    Attributes:
        is_random: whether the order is drawn, so that every seed and group has its own.
        finds_dead_units: whether a unit with weights of zero ranks last.
        is_equivariant: whether renumbering the units renumbers the order.
    """

    is_random: bool = False
    finds_dead_units: bool = True
    is_equivariant: bool = True

    def make(self) -> Importance:
        """Return the criterion under test."""
        raise NotImplementedError

    @pytest.fixture(params=NETWORKS)
    def model(self, request: pytest.FixtureRequest) -> nn.Module:
        """A network with every kind of group."""
        return randomized(NETWORKS[request.param]())

    @pytest.fixture
    def evidence(self, model: nn.Module) -> Evidence:
        """Evidence about that network, with labels."""
        return make_evidence(model, IMAGES, LABELS)

    def test_rankings_are_complete_finite_and_repeatable(self, evidence: Evidence) -> None:
        """Rankings are permutations with falling errors, and the network is left unchanged."""
        criterion = self.make()
        before = {key: value.clone() for key, value in evidence.model.state_dict().items()}
        rankings = rank_groups(criterion, evidence)
        assert len(rankings) == len(evidence.structure.groups) > 0
        for group, ranking in zip(evidence.structure.groups, rankings, strict=True):
            assert sorted(ranking.order) == list(range(group.size))
            assert ranking.errors is not None and len(ranking.errors) == group.size + 1
            assert list(ranking.errors) == sorted(ranking.errors, reverse=True)
            assert ranking.errors[-1] == 0
            if ranking.scores is not None:
                assert list(ranking.scores) == sorted(ranking.scores, reverse=True)
        assert rank_groups(criterion, make_evidence(evidence.model, IMAGES, LABELS)) == rankings
        after = evidence.model.state_dict()
        assert all(torch.equal(value, before[key]) for key, value in after.items())
        assert all(p.requires_grad and p.grad is None for p in evidence.model.parameters())

    def test_a_dead_unit_ranks_last(self, evidence: Evidence) -> None:
        """A unit with weights of zero, incoming and outgoing, is the least important."""
        if not self.finds_dead_units:
            pytest.skip("not promised")
        for group in evidence.structure.groups:
            dead = _with_dead_unit(evidence.model, group, 1)
            ranking = self.make().rank(group, make_evidence(dead, IMAGES, LABELS))
            assert ranking.order[-1] == 1

    def test_renumbered_units_are_ranked_alike(self, model: nn.Module, evidence: Evidence) -> None:
        """The order does not depend on the numbers of the units."""
        if not self.is_equivariant:
            pytest.skip("not promised")
        group = evidence.structure.groups[0]
        numbers = torch.randperm(group.size, generator=torch.Generator().manual_seed(1))
        renumbered = make_evidence(_renumbered(model, group, numbers), IMAGES, LABELS)
        order = self.make().rank(group, evidence).order
        new = self.make().rank(group, renumbered).order
        assert tuple(numbers[list(new)].tolist()) == order

    def test_scale_of_a_layer_does_not_matter(self) -> None:
        """Filters four times as large, read by weights a quarter as large: the same network."""
        model = randomized(without_batchnorm())
        scaled = copy.deepcopy(model)
        with torch.no_grad():
            for name, factor in (("0.weight", 4.0), ("0.bias", 4.0), ("2.weight", 0.25)):
                scaled.get_parameter(name).mul_(factor)
        orders = []
        for one in (model, scaled):
            evidence = make_evidence(one, IMAGES, LABELS)
            orders.append(self.make().rank(evidence.structure.groups[0], evidence).order)
        assert orders[0] == orders[1]

    def test_seeds_and_groups_draw_for_themselves(self) -> None:
        """Random orders differ between seeds and between groups of the same size."""
        if not self.is_random:
            pytest.skip("not a random criterion")
        model = nn.Sequential(*(block(8 if i else 3, 8) for i in range(3)), head(8))
        orders = [
            ranking.order
            for seed in range(3)
            for ranking in rank_groups(self.make(), make_evidence(model, IMAGES, seed=seed))
        ]
        assert len(set(orders)) == len(orders)

    def test_statistics_that_are_not_needed_are_not_collected(self) -> None:
        """A criterion that declares to need less works with less."""
        criterion = self.make()
        labels = LABELS if criterion.needs in LABELLED else None
        evidence = make_evidence(randomized(plain()), IMAGES, labels)
        criterion.rank(evidence.structure.groups[0], evidence)
        collected = {"activations", "taylor"} & vars(evidence).keys()
        assert ("taylor" in collected) == (criterion.needs == "gradients")
        assert not collected or criterion.needs != "nothing"

    def test_one_sample_is_enough_for_an_order(self) -> None:
        """Statistics of a single sample give finite errors."""
        evidence = make_evidence(randomized(plain()), IMAGES[:1], LABELS[:1])
        for ranking in rank_groups(self.make(), evidence):
            assert all(map(math.isfinite, ranking.errors or ()))


def make_evidence(
    model: nn.Module, inputs: Tensor, labels: Tensor | None = None, seed: int = 0
) -> Evidence:
    """Return evidence about a network, with moments of the samples."""
    structure = trace(model.eval(), inputs)
    samples = Samples(inputs, labels)
    moments = collect_moments(model, structure, samples, 0)
    return Evidence(model, structure, moments, samples, seed)


def _tensors(model: nn.Module) -> Mapping[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _with_dead_unit(model: nn.Module, group: ChannelGroup, unit: int) -> nn.Module:
    changed = copy.deepcopy(model)
    tensors = _tensors(changed)
    with torch.no_grad():
        for s in group.slices:
            tensors[s.tensor].index_fill_(s.dim, torch.from_numpy(s.positions[unit]), 0.0)
    return changed


def _renumbered(model: nn.Module, group: ChannelGroup, numbers: Tensor) -> nn.Module:
    """Return the network with unit `numbers[i]` of a group in the place of unit i."""
    changed = copy.deepcopy(model)
    tensors = _tensors(changed)
    with torch.no_grad():
        for s in group.slices:
            positions = torch.from_numpy(s.positions)
            old = tensors[s.tensor].index_select(s.dim, positions[numbers].flatten())
            tensors[s.tensor].index_copy_(s.dim, positions.flatten(), old)
    return changed

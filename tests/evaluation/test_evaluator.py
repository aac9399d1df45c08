"""Candidates are built and judged: full width loses nothing, the dense network stays."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.policy import Widths
from autoprune.core.records import plain, read
from autoprune.cost import cost_models
from autoprune.data import Samples
from autoprune.errors import ModelError
from autoprune.evaluation.classification import ClassificationScorer
from autoprune.evaluation.evaluator import Builder, Evaluator
from autoprune.evaluation.measurement import Measurement
from autoprune.importance import Evidence, Ranking, make_importance
from autoprune.reconstruction.refit import Refitter
from autoprune.reconstruction.sequential import SequentialRepair
from autoprune.statistics.collect import collect_moments
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import apply_policy
from autoprune.structure.verify import analyze

IMAGES = torch.randn(300, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def forward(m: Any, x: Tensor) -> Tensor:
    x = F.relu(m.bn1(m.conv1(x)))
    x = F.relu(x + m.bn3(m.conv3(F.relu(m.bn2(m.conv2(x))))))
    out: Tensor = m.head(m.bare(F.relu(m.bn4(m.depthwise(x)))).mean((2, 3)))
    return out


class Case(NamedTuple):
    """A small network with everything that builds and measures its cuts."""

    model: nn.Module
    structure: Structure
    builder: Builder
    scorer: ClassificationScorer

    def evaluator(self, build: str = "one_shot") -> Evaluator:
        costs = cost_models(self.structure)
        return Evaluator(getattr(self.builder, build), self.scorer, costs, self.structure)

    @property
    def half(self) -> Widths:
        return tuple(max(size // 2, 1) for size in self.structure.dense_widths)


@pytest.fixture
def case(net: Any) -> Case:
    """Residual, depthwise and bare convolutions; weights and BN statistics random."""
    torch.manual_seed(0)
    model: nn.Module = net(
        forward,
        conv1=nn.Conv2d(3, 12, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(12),
        conv2=nn.Conv2d(12, 10, 3, padding=1, bias=False),
        bn2=nn.BatchNorm2d(10),
        conv3=nn.Conv2d(10, 12, 1, bias=False),
        bn3=nn.BatchNorm2d(12),
        depthwise=nn.Conv2d(12, 12, 3, groups=12, bias=False),
        bn4=nn.BatchNorm2d(12),
        bare=nn.Conv2d(12, 8, 1, bias=False),
        head=nn.Linear(8, 6),
    )
    for _ in range(20):
        model.train()(IMAGES)
    model.eval()
    samples = Samples(IMAGES, None)
    structure = analyze(model, IMAGES[:2])
    moments = collect_moments(model, structure, samples, 0)
    evidence = Evidence(model, structure, moments, samples)
    builder = Builder(
        model,
        structure,
        [make_importance("obs").rank(group, evidence) for group in structure.groups],
        Refitter(model, structure, moments),
        samples,
        SequentialRepair(model, structure, samples, 0),
    )
    labelled = Samples(IMAGES[:100], torch.arange(100) % 6)
    return Case(model, structure, builder, ClassificationScorer(model, labelled))


BUILDS = ("one_shot", "one_shot_with_batchnorm", "quick_sequential", "sequential")


@pytest.mark.parametrize(
    ("build", "bound"), list(zip(BUILDS, (1e-6, 1e-3, 1e-4, 1e-4), strict=True))
)
def test_full_width_loses_nothing(build: str, bound: float, case: Case) -> None:
    found = case.evaluator(build).measure(case.structure.dense_widths)
    assert found.scores.kl == pytest.approx(0, abs=bound)
    assert found.costs == found.dense_costs and found.dense == case.scorer.dense


@pytest.mark.parametrize("build", BUILDS)
def test_costs_are_those_of_the_built_network(
    build: str, case: Case, count_macs: Callable[[nn.Module, Tensor], float]
) -> None:
    for widths in (case.structure.dense_widths, case.half, (3,) * len(case.half)):
        small, found = case.evaluator(build).build(widths)
        assert found.costs["flops"] == count_macs(small, IMAGES)
        assert found.costs["params"] == sum(p.numel() for p in small.parameters())
        assert (found.widths, found.names) == (widths, tuple(case.structure.index))


@pytest.mark.parametrize("build", BUILDS)
def test_the_same_widths_measure_the_same(build: str, case: Case) -> None:
    evaluator = case.evaluator(build)
    first = evaluator.measure(case.half)
    evaluator.measure((2,) * len(case.half))
    again = evaluator.measure(case.half)
    # Sequential fits amplify rounding, which depends on where tensors lie in memory.
    assert again.scores.kl == pytest.approx(first.scores.kl, rel=1e-2)
    assert "sequential" in build or again.scores == first.scores


def test_every_repair_helps(case: Case) -> None:
    """Refit beats slicing, the sequential refit beats the one-shot one."""
    sliced = apply_policy(case.model, case.builder.policy(case.half))
    one_shot, sequential = (
        case.evaluator(b).measure(case.half).scores.kl for b in (BUILDS[0], BUILDS[-1])
    )
    assert sequential is not None and one_shot is not None
    assert sequential < one_shot < (case.scorer.score(sliced).kl or 0)


@pytest.mark.parametrize("build", BUILDS)
def test_the_dense_network_stays_as_it_was(build: str, case: Case) -> None:
    before = copy.deepcopy(case.model.state_dict())
    small, _ = case.evaluator(build).build(case.half)
    assert not any(module.training for module in (*small.modules(), *case.model.modules()))
    for name, tensor in case.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    own = {tensor.untyped_storage().data_ptr() for tensor in small.state_dict().values()}
    dense = {tensor.untyped_storage().data_ptr() for tensor in case.model.state_dict().values()}
    assert not own & dense


def test_built_networks_are_handed_out_with_their_batchnorms(case: Case) -> None:
    small, found = case.evaluator().build(case.half)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in small.modules()) == 4
    handed_out = case.scorer.score(small)
    assert handed_out.kl == pytest.approx(found.scores.kl, rel=1e-3)


def test_policies_keep_the_best_units(case: Case) -> None:
    kept, wide = (case.builder.policy(w).kept for w in (case.half, case.structure.dense_widths))
    assert [len(units) for units in kept.values()] == list(case.half)
    assert all(set(kept[name]) <= set(wide[name]) for name in kept)


@pytest.mark.parametrize("build", BUILDS)
def test_stages_are_timed(build: str, case: Case) -> None:
    extra = {"one_shot": set(), "one_shot_with_batchnorm": {"batchnorm"}}.get(build, {"sequential"})
    seconds = case.evaluator(build).measure(case.half).seconds
    assert seconds.keys() == {"surgery", "scoring"} | extra
    assert all(spent > 0 for spent in seconds.values())


def test_measurements_survive_json(case: Case) -> None:
    found = case.evaluator().measure(case.half)
    assert read(json.loads(json.dumps(plain(found))), Measurement) == found


def test_rankings_without_errors_and_of_one_unit() -> None:
    ranking = Ranking((2, 0, 1))
    assert [ranking.kept(w) for w in range(4)] == [(), (2,), (0, 2), (0, 1, 2)]
    assert np.all(np.diff(ranking.kept(3)) > 0)


@pytest.mark.parametrize("build", BUILDS[:2])
def test_a_base_changes_no_score(build: str, case: Case) -> None:
    evaluator, alone, count = case.evaluator(build), case.evaluator(build), len(case.half)
    skipped = []
    for group in range(count):
        widths = tuple(w - (i == group) for i, w in enumerate(case.half))
        near = evaluator.measure(widths, case.half)
        assert near.scores == alone.measure(widths).scores
        assert near.seconds.keys() == alone.measure(widths).seconds.keys()
        skipped.append(case.scorer.prefix.skipped)
    assert skipped == sorted(skipped) and skipped[-1] > 0


def test_an_incumbent_that_is_not_cached_is_counted(case: Case) -> None:
    evaluator, least = case.evaluator(), (1,) * len(case.half)
    found = [evaluator.measure(least, incumbent=case.half) for _ in range(2)]
    assert [one.others_scored for one in found] == [1, 0]
    assert evaluator.measure(case.structure.dense_widths).others_scored == 0
    assert read(plain(found[0]), Measurement) == found[0]


def test_what_was_measured_elsewhere_is_not_scored_again(case: Case) -> None:
    def place() -> Evaluator:
        labelled = Samples(IMAGES[:100], torch.arange(100) % 6)
        return case._replace(scorer=ClassificationScorer(case.model, labelled)).evaluator()

    here, told, untold, least = place(), place(), place(), (1,) * len(case.half)
    measured, known = here.measure(case.half), here.by_sample(case.half)
    assert known is not None and known.mean() == measured.scores
    told.remember(case.half, known)
    found = [one.measure(least, incumbent=case.half) for one in (here, told, untold)]
    assert [one.others_scored for one in found] == [0, 0, 1]
    assert found[0].scores == found[1].scores == found[2].scores


def test_a_base_is_built_once(case: Case) -> None:
    built: list[Widths] = []

    def build(widths: Widths, seconds: dict[str, float]) -> nn.Module:
        built.append(widths)
        return case.builder.one_shot(widths, seconds)

    evaluator = Evaluator(build, case.scorer, {}, case.structure)
    others = [tuple(w - (i == group) for i, w in enumerate(case.half)) for group in (0, 1)]
    for widths in others:
        evaluator.measure(widths, case.half)
    assert sorted(built) == sorted([*others, case.half])


@pytest.mark.parametrize("build", BUILDS)
def test_what_a_networks_own_code_raises_is_its_fault(
    build: str, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def picky(model: Any, x: Tensor) -> Tensor:
        if model.conv1.out_channels < 12:
            raise IndexError("no such channel")
        return forward(model, x)

    monkeypatch.setattr(type(case.model), "forward", picky)
    with pytest.raises(ModelError, match="cannot be run: IndexError: no such channel"):
        case.evaluator(build).measure(case.half)


def test_what_a_repair_raises_is_not(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> None:
        raise IndexError("a bug")

    monkeypatch.setattr("autoprune.reconstruction.sequential.RidgeToPrior", wrong)
    with pytest.raises(IndexError, match="a bug"):
        case.evaluator("sequential").measure(case.half)

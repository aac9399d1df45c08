"""Sequential reconstruction: nothing lost at full width, errors repaired instead of piling up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from repairs import (
    IMAGES,
    NETS,
    make,
    one_shot,
    outputs,
    random_keep,
    repaired,
    residual,
    residual_parts,
)
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.reconstruction.refit import Refitter
from autoprune.reconstruction.sequential import (
    QUICK_EFFORT,
    THOROUGH_EFFORT,
    Effort,
    SequentialRepair,
    samples_within,
)
from autoprune.reconstruction.targets import rows_to_draw
from autoprune.statistics.collect import collect_moments
from autoprune.structure.surgery import cut, kept_positions
from autoprune.structure.tracing.trace import trace


@pytest.fixture(params=NETS)
def dense(request: pytest.FixtureRequest, net: Any) -> nn.Module:
    """A network with random weights whose BNs have seen the images."""
    return make(net, *NETS[request.param])


def test_full_keep_changes_almost_nothing(dense: nn.Module) -> None:
    small = cut(dense, {})
    structure = trace(dense, IMAGES)
    SequentialRepair(dense, structure, Samples(IMAGES, None), 0).repair(small, {})
    torch.testing.assert_close(outputs(small), outputs(dense), rtol=1e-3, atol=1e-4)
    for name, tensor in small.state_dict().items():
        torch.testing.assert_close(tensor, dense.state_dict()[name], rtol=1e-3, atol=1e-3)


def test_beats_the_one_shot_refit_on_what_it_saw(dense: nn.Module) -> None:
    structure = trace(dense, IMAGES)
    keep = random_keep(dense, structure, 0.5)
    target = outputs(dense)
    before = F.mse_loss(outputs(one_shot(dense, structure, keep)), target)
    after = F.mse_loss(outputs(repaired(dense, keep)), target)
    assert after < before


def test_samples_that_are_not_the_first_dimension_are_let_be(net: Any) -> None:
    """Rows of one sample alone would be fitted, for all."""

    def by_position(m: Any, x: Tensor) -> Tensor:
        tokens = x.flatten(2).permute(2, 0, 1)
        return m.head(F.relu(m.a(tokens)).mean(0))  # type: ignore[no-any-return]

    model = make(net, by_position, lambda: {"a": nn.Linear(3, 12), "head": nn.Linear(12, 4)})
    structure = trace(model, IMAGES[:1])
    keep = random_keep(model, structure, 0.5)
    small = cut(model, keep)
    before = small.get_parameter("a.weight").clone()
    SequentialRepair(model, structure, Samples(IMAGES, None), 0).repair(small, keep)
    assert torch.equal(small.get_parameter("a.weight"), before)


def test_frames_in_the_batch_count_as_memory(net: Any) -> None:
    """Four frames of an image are run at once wherever one is."""

    def framed(m: Any, x: Tensor) -> Tensor:
        frames = x.reshape(-1, 3, 3, 3)
        return m.head(F.relu(m.a(frames)).mean((2, 3)).reshape(-1, 4, 8).mean(1))  # type: ignore[no-any-return]

    parts = {"a": nn.Conv2d(3, 8, 3, padding=1), "head": nn.Linear(8, 4)}
    structure = trace(net(framed, **parts).eval(), IMAGES)
    assert samples_within(structure, 50 * 4 * 4 * (8 * 3 * 3 * 4)) == 50
    model = net(framed, **parts).eval().double()
    double = trace(model, IMAGES.double())
    assert samples_within(double, 50 * 4 * 4 * (8 * 3 * 3 * 4)) == 25


def test_inner_groups_of_blocks(net: Any) -> None:
    """The residual stream whole, the insides cut: what later blocks do not see piles up."""
    model = make(net, residual, residual_parts)
    structure = trace(model, IMAGES)
    keep = random_keep(model, structure, 0.4, only="conv")
    target = outputs(model)
    before = F.mse_loss(outputs(one_shot(model, structure, keep)), target)
    assert F.mse_loss(outputs(repaired(model, keep)), target) < 0.8 * before


def block(m: Any, x: Tensor) -> Tensor:
    h = m.stem(x)
    return m.head((h + m.scale(m.branch(h))).mean((2, 3)))  # type: ignore[no-any-return]


def block_sums(model: Any, x: Tensor) -> Tensor:
    h = model.stem(x)
    result: Tensor = h + model.scale(model.branch(h))
    return result


def ramped(made: Callable[[Any], Tensor]) -> Any:
    """The residual network with a ramp added to its images, made in the forward pass."""
    return lambda m, x: residual(m, x + made(m))


def kept_ramp(m: Any) -> Tensor:
    if not hasattr(m, "ramp"):
        m.ramp = torch.arange(6.0) / 6
    ramp: Tensor = m.ramp.to(m.stem.weight.device)
    return ramp


@pytest.mark.parametrize(
    "made",
    [
        lambda m: torch.arange(6.0) / 6,
        lambda m: torch.linspace(0, 5 / 6, 6) + torch.zeros(6, 1),
        lambda m: torch.ones(6).cumsum(0).sub(1).div(6),
        kept_ramp,
    ],
)
def test_what_a_forward_pass_makes_changes_no_repair(
    made: Callable[[Any], Tensor], net: Any
) -> None:
    ramp = torch.arange(6.0) / 6
    plain = make(net, ramped(lambda m: ramp), residual_parts)
    model = make(net, ramped(made), residual_parts)
    model.load_state_dict(plain.state_dict())
    keep = random_keep(plain, trace(plain, IMAGES), 0.4, only="conv")
    wanted, found = repaired(plain, keep), repaired(model, keep)
    torch.testing.assert_close(outputs(found), outputs(wanted))


def test_no_shortcut_is_taken_for_another_where_operators_are_counted_otherwise(net: Any) -> None:
    """A loop over the batch: numbers of one sample's pass mean other operators in a larger one."""

    def by_sample(m: Any, x: Tensor) -> Tensor:
        h = torch.stack([F.relu(one) for one in m.first(x)])
        return residual(m, h)

    def at_once(m: Any, x: Tensor) -> Tensor:
        return residual(m, F.relu(m.first(x)))

    def parts() -> dict[str, nn.Module]:
        return {"first": nn.Conv2d(3, 3, 1), **residual_parts()}

    loops, plain = make(net, by_sample, parts), make(net, at_once, parts)
    plain.load_state_dict(loops.state_dict())
    keep = random_keep(plain, trace(plain, IMAGES), 0.4, only="conv")
    structure = trace(plain, IMAGES)
    without = tuple(
        replace(layer, shortcut=None, clamp=None) if layer.shortcut is not None else layer
        for layer in structure.layers
    )
    small = one_shot(plain, structure, keep)
    SequentialRepair(plain, replace(structure, layers=without), Samples(IMAGES, None), 0).repair(
        small, keep
    )
    torch.testing.assert_close(outputs(repaired(loops, keep)), outputs(small))


@pytest.mark.parametrize("gain", [0.5, -2.0])
def test_a_broken_shortcut_is_repaired_by_the_branch(
    gain: float, net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shortcut lost half of its signal; the branch, behind a BN, can add it again."""

    def parts() -> dict[str, nn.Module]:
        scale = nn.BatchNorm2d(4)
        nn.init.constant_(scale.weight, gain)
        return {
            "stem": nn.Conv2d(3, 4, 1),
            "branch": nn.Conv2d(4, 4, 1, bias=False),
            "scale": scale,
            "head": nn.Linear(4, 2),
        }

    model = make(net, block, parts)
    structure = trace(model, IMAGES)
    assert structure.layer_of_weight["branch.weight"].shortcut is not None
    target = block_sums(model, IMAGES)
    broken: Any = cut(model, {})
    repair = SequentialRepair(model, structure, Samples(IMAGES, None), 0)
    repair.repair(broken, {})  # records its targets
    with torch.no_grad():
        broken.stem.weight.mul_(0.5)
        broken.stem.bias.mul_(0.5)
    # The stem, which could simply be refitted, has to stay broken.
    only_the_branch = {"branch.weight": structure.layer_of_weight["branch.weight"]}
    monkeypatch.setattr(repair, "_layers", only_the_branch)
    before = F.mse_loss(block_sums(broken, IMAGES), target)
    repair.repair(broken, {})
    assert F.mse_loss(block_sums(broken, IMAGES), target) < 0.01 * before


@pytest.mark.parametrize("gains", ["tiny", "zero", "one zero", "mixed"])
def test_small_gains_amplify_nothing(gains: str, net: Any) -> None:
    def parts() -> dict[str, nn.Module]:
        made = residual_parts()
        values = {
            "tiny": torch.full((12,), 1e-12),
            "zero": torch.zeros(12),
            "one zero": torch.cat([torch.zeros(1), torch.ones(11)]),
            "mixed": torch.logspace(-12, 0, 12),
        }[gains]
        for i in (1, 2, 3):
            norm: Any = made[f"bn{i}b"]
            norm.weight = nn.Parameter(values.clone())
        return made

    model = make(net, residual, parts)
    structure = trace(model, IMAGES)
    keep = random_keep(model, structure, 0.5)
    small = repaired(model, keep)
    assert all(bool(t.isfinite().all()) for t in small.state_dict().values())
    target = outputs(model)
    plain = F.mse_loss(outputs(one_shot(model, structure, keep)), target)
    assert F.mse_loss(outputs(small), target) < 1.5 * plain


def test_dead_inputs_and_single_samples_stay_finite(net: Any) -> None:
    model: Any = make(net, *NETS["no bias, no BN"])
    with torch.no_grad():
        model.a.weight.zero_()
    structure = trace(model, IMAGES)
    keep = random_keep(model, structure, 0.5)
    small = cut(model, keep)
    SequentialRepair(model, structure, Samples(IMAGES[:1], None), 0).repair(small, keep)
    assert all(bool(t.isfinite().all()) for t in small.state_dict().values())


def test_equal_seeds_give_equal_networks(net: Any) -> None:
    states = []
    for _ in range(2):
        model = make(net, residual, residual_parts)
        states.append(repaired(model, random_keep(model, trace(model, IMAGES), 0.5)).state_dict())
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())


def test_targets_are_recorded_once_and_the_dense_network_stays(net: Any) -> None:
    model = make(net, residual, residual_parts)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    structure = trace(model, IMAGES)
    keep, wide = (random_keep(model, structure, share) for share in (0.5, 0.75))
    repair = SequentialRepair(model, structure, Samples(IMAGES, None), 0)
    results = []
    for chosen in (keep, wide, keep):
        small = one_shot(model, structure, chosen)
        repair.repair(small, chosen)
        results.append(outputs(small))
    assert torch.equal(results[0], results[2])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_samples_that_fit_into_memory(net: Any) -> None:
    """The widest activation has 12 channels of 36 positions; four of them are alive at once."""
    structure = trace(make(net, residual, residual_parts), IMAGES)
    assert samples_within(structure, 4 * 4 * 12 * 36 * 10) == 10
    assert samples_within(structure, 4 * 4 * 12 * 36 * 10 - 1) == 9
    assert samples_within(structure, 1) == 1


def test_layers_with_too_few_rows_keep_their_weights(net: Any) -> None:
    """Four images of 36 positions are 144 rows: enough for 6 channels of 9 taps, not for 12."""
    model = make(net, residual, residual_parts)
    structure = trace(model, IMAGES)
    keep = random_keep(model, structure, 0.5, only="conv1a")
    small = one_shot(model, structure, keep)
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    SequentialRepair(model, structure, Samples(IMAGES[:4], None), 0).repair(small, keep)
    same = {
        name for name, tensor in small.state_dict().items() if torch.equal(tensor, before[name])
    }
    assert {"conv2a.weight", "bn2a.running_var", "bn2a.running_mean", "head.weight"} <= same
    assert not {"stem.weight", "conv1b.weight"} & same


def test_rows_are_bounded_by_memory_but_never_too_few() -> None:
    assert rows_to_draw(64_000, 16, 144) == rows_to_draw(64_000, 64, 576) == 64_000
    assert rows_to_draw(64_000, 256, 64) == 16_000
    assert rows_to_draw(64_000, 512, 4608) == rows_to_draw(8_000, 512, 4608) == 4 * 4608


def test_a_quick_repair_takes_fewer_samples_and_rows(net: Any) -> None:
    model = make(net, residual, residual_parts)
    structure = trace(model, IMAGES)
    repair = SequentialRepair(model, structure, Samples(IMAGES[:10], None), 0)
    quick = repair.with_effort(Effort(samples=4, rows=50, rounds=0))
    assert torch.equal(quick.samples.inputs, IMAGES[:4])
    keep = random_keep(model, structure, 0.5)
    quick.repair(one_shot(model, structure, keep), keep)
    assert quick._targets is not None
    # A stem of 27 inputs needs more rows than it may have: four per input, over four samples.
    assert quick._targets["stem.weight"].positions.numel() == 4 * 27
    assert len(repair.with_effort(QUICK_EFFORT).samples) == 10  # no more than it has itself


def test_work_counts_forward_passes_and_normal_equations() -> None:
    """A 1x1 convolution of 3 into 4 channels on 6 x 6 pixels, and a linear layer of 4 inputs."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    images = torch.randn(10, 3, 6, 6)
    structure = trace(model.eval(), images)
    repair = SequentialRepair(
        model, structure, Samples(images, None), 0, Effort(samples=5, rows=100, rounds=0)
    )
    convolution = 5 * 36 * 4 * 3 + (100 + 3) * 3**2  # 100 of 180 rows
    linear = 5 * 2 * 4  # 5 rows are too few to fit 4 inputs
    assert repair.work() == convolution + linear


def test_only_what_a_relu_lets_through_is_wanted(net: Any) -> None:
    """Fits that leave open what a ReLU hides come nearer behind it than plain ones."""
    model = make(net, residual, residual_parts)
    structure = trace(model, IMAGES)
    assert sum(layer.clamp is not None for layer in structure.layers) == len(structure.layers) - 1
    target, errors = outputs(model), []
    for effort in (replace(THOROUGH_EFFORT, rounds=0), THOROUGH_EFFORT):
        keep = random_keep(model, structure, 0.5)
        errors.append(float(F.mse_loss(outputs(repaired(model, keep, effort)), target)))
    assert errors[1] < 0.97 * errors[0]


@pytest.mark.parametrize("fixed", [{"conv2b.weight"}, {"stem.weight", "head.bias"}])
def test_fixed_weights_are_sliced_and_nothing_else(net: Any, fixed: set[str]) -> None:
    torch.manual_seed(0)
    model = net(residual, **residual_parts()).eval()
    structure = trace(model, IMAGES[:2]).leaving(fixed)
    samples = Samples(IMAGES, None)
    keep = kept_positions(model, structure.policy([range(s // 2) for s in structure.dense_widths]))
    refitter = Refitter(model, structure, collect_moments(model, structure, samples, seed=0))
    small, sliced = cut(model, keep, refitter.tensors(keep)), cut(model, keep)
    SequentialRepair(model, structure, samples, seed=0).repair(small, keep)
    wanted = dict(sliced.named_parameters())
    changed = {n for n, p in small.named_parameters() if not torch.equal(p, wanted[n])}
    layers = {"stem", "head", *(f"conv{i}{half}" for i in (1, 2, 3) for half in "ab")}
    left = {name.partition(".")[0] for name in fixed}
    assert changed == {f"{layer}.weight" for layer in layers - left} | (
        {"head.bias"} if "head" not in left else set()
    )

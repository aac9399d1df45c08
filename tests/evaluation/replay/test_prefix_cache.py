"""Networks near a base score the same from their first changed operator on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.core.plugins import load_object
from autoprune.core.policy import Widths
from autoprune.data import Samples
from autoprune.evaluation.classification import ClassificationScorer
from autoprune.evaluation.replay import prefix_cache
from autoprune.evaluation.replay.prefix_cache import PrefixCache
from autoprune.evaluation.scoring import CustomScorer
from autoprune.reconstruction.batchnorm import fold_batchnorm
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import apply_policy
from autoprune.structure.tracing.trace import trace
from autoprune.structure.verify import analyze


def images(side: int, *sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(size, 3, side, side, generator=generator).to(memory_format=torch.channels_last)
        for size in sizes
    ]


def randomized(model: nn.Module) -> nn.Module:
    """Give BNs statistics of their own, so that nothing cancels out."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


def folded(model: nn.Module, structure: Structure, widths: Widths) -> nn.Module:
    policy = structure.policy([range(width) for width in widths])
    return fold_batchnorm(apply_policy(model, policy), structure)


def narrowed(widths: Widths, groups: Sequence[int]) -> Widths:
    return tuple(max(1, w - 1 - w // 4) if i in groups else w for i, w in enumerate(widths))


def in_full(model: nn.Module, batches: Sequence[Tensor]) -> list[Tensor]:
    with torch.inference_mode():
        return [model(batch) for batch in batches]


def equal(found: list[Any] | None, expected: list[Tensor]) -> bool:
    return found is not None and all(map(torch.equal, found, expected))


NETWORKS: dict[str, Callable[[Any], nn.Module]] = {
    "shortcuts": lambda models: models.resnet18(num_classes=10),
    "depthwise": lambda models: models.mobilenet_v2(width_mult=0.25, num_classes=10),
    "concatenations": lambda models: models.DenseNet(8, (2, 2, 2), 16, num_classes=10),
    "shuffled halves": lambda models: models.ShuffleNetV2([2, 2, 2], [8, 16, 32, 64, 128], 10),
    "squeeze and excite": lambda models: models.efficientnet_b0(num_classes=10),
    "layer norms": lambda models: models.ConvNeXt(
        [models.convnext.CNBlockConfig(*one) for one in ((24, 48, 2), (48, 96, 2), (96, None, 2))],
        num_classes=10,
    ),
}


@pytest.mark.parametrize("named", [False, True])
def test_networks_of_several_inputs(named: bool, net: Any) -> None:
    """Tokens and an image; the last layer is the one that changes."""
    parts: dict[str, Any] = {
        "words": nn.Embedding(9, 8),
        "conv": nn.Conv2d(3, 8, 3),
        "a": nn.Linear(8, 16),
        "b": nn.Linear(16, 4),
    }
    model = net(
        lambda m, image, tokens: m.b(m.a(m.conv(image).mean((2, 3)) + m.words(tokens).mean(1))),
        **parts,
    ).eval()
    (image,), tokens = images(6, 4), torch.arange(20).reshape(4, 5) % 9
    batch: Any = {"tokens": tokens, "image": image} if named else (image, tokens)
    other = copy.deepcopy(model)
    nn.init.normal_(other.b.weight)
    cached = PrefixCache([batch])
    found = cached.outputs(other, model)
    assert found is not None and cached.skipped > 0.5
    with torch.no_grad():
        assert torch.equal(found[0], other(image, tokens))


@pytest.mark.parametrize("name", NETWORKS)
def test_torchvision_networks(name: str) -> None:
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    model = randomized(NETWORKS[name](models))
    batches = images(32, 2, 2, 1)
    # What the trace alone finds in shuffled halves is too much.
    find = analyze if name == "shuffled halves" else trace
    structure = find(model, batches[0])
    count = len(structure.groups)
    widths = tuple(max(1, size * 3 // 4) for size in structure.dense_widths)
    base, cached = folded(model, structure, widths), PrefixCache(batches)
    skipped = []
    for group in (count // 3, count // 2, count - 1, count // 3):  # the last one goes back
        candidate = folded(model, structure, narrowed(widths, [group]))
        assert equal(cached.outputs(candidate, base), in_full(candidate, batches))
        skipped.append(cached.skipped)
    assert 0 < skipped[0] <= skipped[1] <= skipped[2] and skipped[3] == skipped[0]


def in_place(m: Any, x: Tensor) -> Tensor:
    """Views, chunks, shortcuts and work in place, all alive across operators."""
    x = F.relu_(m.bn1(m.a(x)))
    left, right = m.b(x).relu_().chunk(2, 1)
    right.mul_(2)
    y = m.c(torch.cat([left, right], 1))
    y += x
    gate = m.e(m.d(F.adaptive_avg_pool2d(y, 1)).relu_()).sigmoid_()
    z = m.bn2(m.f(y * gate)).add_(F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)))
    out: Tensor = m.head(z.relu_().flatten(2).mean(2))
    return out


def functional(net: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = net(
        in_place,
        a=nn.Conv2d(3, 6, 3, padding=1),
        bn1=nn.BatchNorm2d(6),
        b=nn.Conv2d(6, 8, 3, padding=1),
        c=nn.Conv2d(8, 6, 3, padding=1),
        d=nn.Conv2d(6, 4, 1),
        e=nn.Conv2d(4, 6, 1),
        f=nn.Conv2d(6, 8, 3, 2, 1),
        bn2=nn.BatchNorm2d(8),
        head=nn.Linear(8, 5),
    )
    return randomized(model)


@cache
def prepared(name: str, net: Any, root: Any) -> tuple[nn.Module, Structure]:
    torch.manual_seed(0)
    if name == "functional":
        model = functional(net)
    else:
        file = root / "experiments" / "models" / "cifar_resnet.py"
        model = randomized(load_object(f"{file}:{name}", "model")())
    return model, analyze(model, images(8, 1)[0])


@pytest.mark.parametrize("name", ["functional", "resnet20"])
@settings(max_examples=15)
@given(data=st.data())
def test_any_sequence_of_changes(name: str, net: Any, root: Any, data: st.DataObject) -> None:
    """Several candidates on one base, each with any set of groups changed, in any order."""
    model, structure = prepared(name, net, root)
    groups = st.lists(st.integers(0, len(structure.groups) - 1), max_size=3)
    kept = data.draw(st.floats(0.4, 1.0))
    widths = tuple(max(2, round(size * kept)) for size in structure.dense_widths)
    batches = images(8, 2, 2, 1)
    base, cached = folded(model, structure, widths), PrefixCache(batches)
    for _ in range(3):
        changed = data.draw(groups)
        candidate = folded(model, structure, narrowed(widths, changed))
        expected = in_full(candidate, batches)
        found = cached.outputs(candidate, base)
        # The first group's units are made by the first layer: then there is nothing to share.
        assert found is None if 0 in changed else equal(found, expected)
        assert equal(in_full(candidate, batches), expected)


class Simple(nn.Module):
    """Three layers; subclasses do odd things between them."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 4, 1)
        self.b = nn.Conv2d(4, width, 1)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.between(self.b(F.relu(self.a(x))))).mean((2, 3))
        return out

    def between(self, x: Tensor) -> Tensor:
        return x


class Remembering(Simple):
    """Holds on to a tensor that it made in its first forward pass."""

    table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.linspace(0, 1, x.shape[-1])
        return super().forward(x * self.table)


class Counting(Simple):
    """Does something else in every forward pass."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x * self.calls)


class Deciding(Simple):
    """Looks at values, unseen by any operator."""

    def between(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum().tolist() > 0 else x


class Counted(Simple):
    """Looks at a width long before the layer that has it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.b.out_channels)


@pytest.mark.parametrize("kind", [Remembering, Counting, Deciding, Counted])
def test_odd_networks_are_run_in_full(kind: Callable[..., nn.Module]) -> None:
    batches = images(4, 2, 2)
    base, candidate = kind().eval(), kind(3).eval()
    expected = in_full(copy.deepcopy(candidate), batches)
    cached = PrefixCache(batches)
    for _ in range(2):
        assert cached.outputs(candidate, base) is None and cached.skipped == 0
    assert equal(in_full(candidate, batches), expected)


def test_equal_networks_share_everything() -> None:
    batches = images(4, 2, 1)
    cached = PrefixCache(batches)
    assert equal(cached.outputs(Simple(), Simple()), in_full(Simple(), batches))
    assert cached.skipped == 1


def test_a_change_at_the_start_shares_nothing() -> None:
    batches, other = images(4, 2), Simple()
    with torch.no_grad():
        other.a.weight.mul_(2)
    cached = PrefixCache(batches)
    assert cached.outputs(other, Simple()) is None and cached.skipped == 0


def test_a_new_base_begins_anew() -> None:
    batches, base, other = images(4, 2), Simple(), Simple()
    with torch.no_grad():
        other.a.weight.mul_(2)
    cached = PrefixCache(batches)
    for first in (base, other):
        narrow = copy.deepcopy(first)
        with torch.no_grad():
            narrow.head.weight.mul_(2)
        assert equal(cached.outputs(narrow, first), in_full(narrow, batches))


def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = images(4, 2, 1)
    alive = 3 * 4 * 16 * 4  # three images of four channels behind the first relu
    cached, base = PrefixCache(batches), Simple()
    monkeypatch.setattr(prefix_cache, "MAX_BYTES", alive - 1)
    assert cached.outputs(Simple(3), base) is None
    monkeypatch.setattr(prefix_cache, "MAX_BYTES", alive)
    assert equal(cached.outputs(Simple(3), base), in_full(Simple(3), batches))


def test_the_base_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[tuple[int, int]] = []
    inner = prefix_cache.advance

    def spy(base: Any, inputs: Any, script: Any, start: int, stop: int, values: Any) -> Any:
        moves.append((start, stop))
        return inner(base, inputs, script, start, stop, values)

    monkeypatch.setattr(prefix_cache, "advance", spy)
    cached, base, last = PrefixCache(images(4, 2)), Simple(), Simple()
    with torch.no_grad():
        last.head.weight.mul_(2)
    for candidate in (Simple(3), Simple(2), last):
        assert cached.outputs(candidate, base) is not None
    assert moves == [(0, 2), (2, 3)]


def test_scorers_agree_with_themselves() -> None:
    dense, batch = Simple(), images(4, 300)[0]
    scorer = ClassificationScorer(dense, Samples(batch, torch.zeros(300, dtype=torch.int64)))
    assert scorer.score_near(Simple(3), lambda: dense) == scorer.score(Simple(3))
    assert scorer.prefix.skipped > 0
    custom = CustomScorer(dense, lambda model: float(model(batch).sum()))

    def unused() -> nn.Module:
        raise AssertionError("nothing is saved by a base that is built for nothing")

    assert custom.score_near(Simple(3), unused) == custom.score(Simple(3))


def test_tables_outside_of_the_network_are_made_of_ordinary_tensors(net: Any) -> None:
    tables: dict[int, Tensor] = {}

    def forward(m: Any, x: Tensor) -> Tensor:
        for layer in (m.a, m.b, m.c):
            x = layer(x).relu()
            width = x.shape[1]
            if width not in tables:
                tables[width] = torch.full((), 2.0) * 2
            x = x * tables[width]
        return x.mean((2, 3))

    torch.manual_seed(0)
    model = net(forward, a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 8, 3), c=nn.Conv2d(8, 4, 3)).eval()
    batches = images(8, 2)
    structure = analyze(model, batches[0])
    base, candidate = folded(model, structure, (6, 6)), folded(model, structure, (6, 5))
    tables.clear()
    cached = PrefixCache(batches)
    assert equal(cached.outputs(candidate, base), in_full(candidate, batches))
    assert cached.skipped > 0 and tables.keys() == {6, 5, 4}
    assert all(type(table) is Tensor for table in tables.values())

"""Networks as people have them: searched, handed over plain, and left as they were.

Each case is searched, and its pruned network loaded into another one that comes in the same way.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from searches import TINY, Notes, dataset
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

import autoprune
from autoprune.errors import ModelError

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Two convolutions and a classifier; subclasses change what happens between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)
        self.prepare()

    def prepare(self) -> None:
        """Add what a subclass needs."""

    def first(self, x: Tensor) -> Tensor:
        found: Tensor = F.relu(self.bn(self.a(x)))
        return found

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.b(self.between(self.first(x)))).mean((2, 3)))
        return out


class Repeated(Net):
    def between(self, x: Tensor) -> Tensor:
        return F.relu(self.b(F.relu(self.b(x))))


class Tied(Net):
    def prepare(self) -> None:
        self.c = nn.Conv2d(8, 8, 3, padding=1)
        self.c.weight = self.b.weight

    def between(self, x: Tensor) -> Tensor:
        return F.relu(self.c(x))


class LateBuffer(Net):
    def prepare(self) -> None:
        self.register_buffer("fade", None)

    def between(self, x: Tensor) -> Tensor:
        if self.fade is None:
            self.fade = torch.linspace(0.5, 1, x.shape[-1])
        return x * self.fade


class Cached(Net):
    def prepare(self) -> None:
        self.cache: dict[Any, Tensor] = {}

    def between(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[-2:])
        if size not in self.cache:
            self.cache[size] = torch.linspace(0.5, 1, size[0] * size[1]).reshape(1, 1, *size)
        return x * self.cache[size]


class Noisy(Net):
    def between(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.2, training=True) + 0.01 * torch.randn_like(x)


class Rectified(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * (ctx.saved_tensors[0] > 0)


class OwnFunction(Net):
    def between(self, x: Tensor) -> Tensor:
        found: Tensor = Rectified.apply(x)  # type: ignore[no-untyped-call]
        return found


class Hooked(Net):
    def prepare(self) -> None:
        self.seen: list[Any] = []
        self.a.register_forward_hook(lambda module, given, out: self.seen.append(out.shape))
        self.b.register_forward_pre_hook(lambda module, given: (given[0] * 2,))


def changed(change: Callable[[Any], Any], kind: type[Net] = Net) -> Callable[[], nn.Module]:
    """Return what makes a network that is changed in place, or replaced by what is returned."""

    def make() -> nn.Module:
        model = kind()
        found = change(model)
        return found if isinstance(found, nn.Module) else model

    return make


def part(name: str, wrap: Callable[[nn.Module], Any]) -> Callable[[Any], None]:
    return lambda model: setattr(model, name, wrap(getattr(model, name)))


def both(change: Callable[[nn.Module], Any]) -> Callable[[Any], list[Any]]:
    return lambda model: [change(model.a), change(model.b)]


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


def masked(module: nn.Module) -> None:
    prune.random_unstructured(module, "weight", 0.3)
    prune.l1_unstructured(module, "weight", 0.3)
    prune.l1_unstructured(module, "bias", 0.3)


def only_head_trained(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head"))


class Case(NamedTuple):
    """How a network comes, what is cut in it, and what is said of it."""

    make: Callable[[], nn.Module]
    cut: Sequence[str] = ("a", "b")
    said: str = ""


COMPUTED = "computes is made permanent in the pruned network: a.weight, b.weight"
CASES = {
    "in training mode": Case(changed(lambda model: model.train())),
    "frozen": Case(changed(only_head_trained), said="keep their values"),
    "inside DataParallel": Case(changed(nn.DataParallel), said="the network inside a DataParallel"),
    "a part inside DataParallel": Case(
        changed(part("a", nn.DataParallel)), said="without wrapper or compilation: a"
    ),
    "compiled": Case(changed(compiled), said="the network inside an OptimizedModule"),
    "compiled in place": Case(
        changed(lambda model: model.compile(backend="eager")),
        said="without wrapper or compilation: the whole network",
    ),
    "a compiled part": Case(
        changed(part("b", compiled)), said="without wrapper or compilation: b"
    ),
    "traced by torch.fx": Case(changed(torch.fx.symbolic_trace)),
    "averaged": Case(
        changed(torch.optim.swa_utils.AveragedModel), cut=("module.a", "module.b")
    ),
    "half precision": Case(changed(lambda model: model.half())),
    "bfloat16": Case(changed(lambda model: model.bfloat16())),
    "quantized in part": Case(
        changed(lambda model: torch.ao.quantization.quantize_dynamic(model, {nn.Linear})),
        cut=("a",),
    ),
    "weight norm": Case(
        changed(both(parametrizations.weight_norm)), said=f"WeightNorm {COMPUTED}"
    ),
    "weight norm by hook": Case(
        changed(both(weight_norm)), said=f"torch.nn.utils.weight_norm {COMPUTED}"
    ),
    "spectral norm": Case(
        changed(both(parametrizations.spectral_norm)), said=f"SpectralNorm {COMPUTED}"
    ),
    "spectral norm by hook": Case(
        changed(both(spectral_norm)), said=f"torch.nn.utils.spectral_norm {COMPUTED}"
    ),
    "orthogonal": Case(changed(lambda model: [parametrizations.orthogonal(model.head)])),
    "parametrized by the user": Case(
        changed(both(lambda module: register_parametrization(module, "weight", nn.Tanh()))),
        said=f"Tanh {COMPUTED}",
    ),
    "masked": Case(
        changed(both(masked)), said="what torch.nn.utils.prune computes is made permanent"
    ),
    "a module that runs several times": Case(Repeated, cut=("a",)),
    "tied weights": Case(Tied, cut=("a",)),
    "a buffer made in the first run": Case(LateBuffer),
    "a cache by input size": Case(Cached),
    "dropout and noise": Case(Noisy),
    "a custom autograd function": Case(OwnFunction),
    "hooks": Case(Hooked),
}  # fmt: skip


def state(model: nn.Module) -> dict[str, Any]:
    """Return everything of a network that a user could miss: values, modes, modules, hooks."""
    modules = dict(model.named_modules())
    return {
        "values": {k: copy.deepcopy(v) for k, v in model.state_dict().items()},
        "training": {path: one.training for path, one in modules.items()},
        "kinds": {path: type(one) for path, one in modules.items()},
        "hooks": {path: len(one._forward_pre_hooks) for path, one in modules.items()},
        "trained": {name: p.requires_grad for name, p in model.named_parameters()},
    }


def answers(model: nn.Module) -> Tensor:
    torch.manual_seed(0)
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        found: Tensor = model.eval()(IMAGES.to(dtype))
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_networks_as_people_have_them(name: str, tmp_path: Path) -> None:
    case, told = CASES[name], Notes()
    model = case.make()
    before = state(model)
    run = autoprune.search(
        model, data=dataset(), output=tmp_path / "run", progress=told, **TINY
    )  # fmt: skip
    assert {name for name, (kept, size) in run.result["widths"].items() if kept < size} == {
        *case.cut
    }
    assert case.said in "\n".join(told.notes)
    after = state(model)
    values, own = before.pop("values"), after.pop("values")
    assert before == after and values.keys() == own.keys()
    for key, value in values.items():
        assert not isinstance(value, Tensor) or torch.equal(value, own[key]), key
    assert not any(map(is_parametrized, run.model.modules()))
    loaded = autoprune.load_pruned(case.make(), run.path)
    assert torch.equal(answers(loaded), answers(run.model))
    assert torch.equal(answers(model), answers(case.make()))  # nothing is lost but in the copy
    again = autoprune.apply_policy(case.make(), run.path / "policy.json")
    assert [p.shape for p in again.parameters()] == [p.shape for p in run.model.parameters()]


@contextmanager
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_distributed_data_parallel(tmp_path: Path) -> None:
    with one_process():
        model = nn.parallel.DistributedDataParallel(Net())
        run = autoprune.search(model, data=dataset(), output=tmp_path / "run", **TINY)
        assert type(run.model) is Net
        loaded = autoprune.load_pruned(model, run.path)
    assert torch.equal(answers(loaded), answers(run.model))


@pytest.mark.filterwarnings("ignore")
def test_sharded_networks_are_refused_in_one_line(tmp_path: Path) -> None:
    from torch.distributed.fsdp import fully_shard

    with one_process(), pytest.raises(ModelError, match=r"sharded over devices .*gather") as told:
        model = Net()
        fully_shard(model, mesh=dist.init_device_mesh("cpu", (1,)))
        autoprune.search(model, data=dataset(), output=tmp_path / "run", **TINY)
    assert "\n" not in str(told.value) and not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (changed(torch.jit.script), "is a TorchScript module"),
        (changed(lambda model: torch.jit.trace(model.eval(), IMAGES)), "is a TorchScript module"),
        (
            changed(lambda model: torch.export.export(model.eval(), (IMAGES,)).module()),
            "is a graph of operators",
        ),
        (changed(lambda model: model.to("meta")), "'a.weight' is on the meta device"),
        (changed(part("a", lambda one: nn.LazyConv2d(8, 3))), "has no weights yet"),
    ],
    ids=["scripted", "traced", "exported", "without values", "lazy"],
)
def test_what_cannot_be_cut_is_refused_in_one_line(
    make: Callable[[], nn.Module], message: str, tmp_path: Path
) -> None:
    with warnings.catch_warnings(), pytest.raises(ModelError, match=message) as told:
        autoprune.search(make(), data=dataset(), output=tmp_path / "run", **TINY)
    assert "\n" not in str(told.value)

"""The user's network, the random generators and the search itself, whatever user code does."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from searches import TINY, dataset
from torch import Tensor, nn

import autoprune

OPTIONS: dict[str, Any] = {**TINY, "trials": 2, "strategy": "random"}


class Block(nn.Module):
    """Keeps things on itself at every forward pass, as real networks do."""

    calls: Tensor
    scale: Tensor | None

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.penalty: Tensor | None = None
        self.seen: list[Any] = []
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("scale", None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        self.calls += 1
        if self.scale is None:
            self.scale = torch.tensor(0.5)
        self.seen.append(x)
        if self.training:
            self.penalty = x.abs().mean()
        return F.dropout(F.relu(x * self.scale), 0.1, self.training)


def used_network() -> Any:
    """Return a network in the middle of its training: modes mixed, gradients and graphs left."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        Block(3, 8), Block(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).train()
    model.register_forward_hook(lambda module, inputs, output: output)
    F.cross_entropy(model(dataset().tensors[0]), dataset().tensors[1]).backward()
    model[0].norm.eval()
    model[0].conv.weight.requires_grad_(False)
    return model


def value_of(thing: Any) -> Any:
    """Return something that equals only what is the same, with tensors by identity and value."""
    if isinstance(thing, Tensor):
        gradient = thing.grad.tolist() if thing.is_leaf and thing.grad is not None else None
        return id(thing), thing.tolist(), id(thing.grad_fn), gradient, thing.requires_grad
    if isinstance(thing, (dict, OrderedDict)):
        return id(thing), [(name, value_of(value)) for name, value in thing.items()]
    if isinstance(thing, (list, tuple)):
        return id(thing), [value_of(value) for value in thing]
    return id(thing)


def everything_of(model: nn.Module) -> dict[str, Any]:
    """Return all that hangs on the modules: modes, tensors, hooks, gradients, caches."""
    return {path: value_of(vars(module)) for path, module in model.named_modules()}


@contextmanager
def nothing_changes(model: nn.Module) -> Iterator[None]:
    before = everything_of(model)
    states = numbers()
    yield
    assert everything_of(model) == before
    assert numbers() == states


def numbers() -> tuple[Any, ...]:
    """Return the global random states."""
    numpy: Any = np.random.get_state()
    return random.getstate(), numpy[1].tolist(), torch.get_rng_state().tolist()


def quiet(model: nn.Module) -> float:
    assert not any(module.training for module in model.modules())
    return float(model(dataset().tensors[0])[:, 0].sum().detach())


def draws(model: nn.Module) -> float:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    return quiet(model)


def trains(model: nn.Module) -> float:
    score = quiet(model)
    model.train()
    images, labels = dataset().tensors
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
    return score


def destroys(model: Any) -> float:
    score = quiet(model)
    model.half()
    model.register_forward_hook(lambda module, inputs, output: output * torch.nan)
    model[0].conv.register_forward_pre_hook(lambda module, inputs: 1 / 0)
    for parameter in model.parameters():
        parameter.data.zero_()
    del model[0].norm.weight, model[4]
    torch.set_grad_enabled(False)
    return score


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> autoprune.Run:
    output = tmp_path_factory.mktemp("runs") / "quiet"
    return autoprune.search(
        used_network(), data=dataset(), evaluate=quiet, output=output, **OPTIONS
    )


@pytest.mark.parametrize("evaluate", [draws, trains, destroys])
def test_an_evaluate_may_do_anything_to_what_it_is_given(
    evaluate: Callable[[nn.Module], float], expected: autoprune.Run, tmp_path: Path
) -> None:
    model = used_network()
    with nothing_changes(model):
        run = autoprune.search(
            model, data=dataset(), evaluate=evaluate, output=tmp_path / "run", **OPTIONS
        )
    assert run.result["score"] == expected.result["score"]
    assert run.result["widths"] == expected.result["widths"]
    assert quiet(run.model) == run.result["score"]["pruned"]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "options", [{"recover": "0.3s"}, {"importance": "taylor"}, {"importance": "nisp"}], ids=str
)
def test_a_search_leaves_the_network_as_it_was(options: dict[str, Any], tmp_path: Path) -> None:
    model = used_network()
    with nothing_changes(model):
        run = autoprune.search(
            model, data=dataset(), output=tmp_path / "run", **{**OPTIONS, **options}
        )
    assert not any(module.training for module in run.model.modules())
    assert not any(p.grad_fn or p.is_inference() for p in run.model.state_dict().values())
    F.cross_entropy(run.model.train()(dataset().tensors[0]), dataset().tensors[1]).backward()


def test_a_search_that_fails_leaves_it_as_well(tmp_path: Path) -> None:
    model = used_network()
    with nothing_changes(model), pytest.raises(autoprune.AutopruneError, match="SystemExit: 0"):
        autoprune.search(
            model,
            data=dataset(),
            evaluate=lambda model: draws(model) and exit(0),
            output=tmp_path / "run",
            **OPTIONS,
        )


def test_what_is_loaded_is_another_network(expected: autoprune.Run) -> None:
    model = used_network()
    with nothing_changes(model):
        small = autoprune.apply_policy(model, expected.policy)
        loaded = autoprune.load_pruned(model, expected.path)
        for network in (small, loaded):
            destroys(network.eval())
            torch.set_grad_enabled(True)
    again: Any = autoprune.apply_policy(model, expected.policy)
    assert (again.training, again[0].norm.training, again[1].norm.training) == (True, False, True)


def test_what_is_handed_out_is_what_is_in_the_files(expected: autoprune.Run) -> None:
    fresh = used_network()
    for block in fresh[:2]:
        block.scale = None  # as in a network that never ran
    loaded = autoprune.load_pruned(fresh, expected.path)
    own, other = expected.model.state_dict(), loaded.state_dict()
    assert own.keys() == other.keys() and "0.scale" in own
    assert all(torch.equal(own[name], other[name]) for name in own)


def test_gradients_can_be_taken_in_any_mode(expected: autoprune.Run, tmp_path: Path) -> None:
    model, images = used_network(), dataset()
    with torch.inference_mode():
        run = autoprune.search(
            model, data=images, evaluate=trains, output=tmp_path / "run", **OPTIONS
        )
    assert run.result["score"] == expected.result["score"]


def test_a_score_sees_the_batchnorm_of_what_is_handed_out(tmp_path: Path) -> None:
    """A score that re-estimates BN first is that of the network handed out, after recovery too."""

    def adaptive(model: nn.Module) -> float:
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        assert len(norms) == 2
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            model(dataset().tensors[0])
        return quiet(model.eval())

    run = autoprune.search(
        used_network(),
        data=dataset(),
        evaluate=adaptive,
        output=tmp_path / "run",
        **{**OPTIONS, "recover": "0.5s"},
    )
    score = run.result["score"]
    reported = score["pruned"] if score["recovered"] is None else score["recovered"]
    assert adaptive(run.model) == reported


SPOILER = """
from autoprune.importance import Importance
from autoprune.importance.base import Ranking


class Spoiler(Importance):
    def rank(self, group, evidence):
        evidence.model.train()
        for tensor in evidence.model.state_dict().values():
            tensor.zero_()
        return Ranking(tuple(range(group.size)))
"""


def test_a_criterion_of_the_users_disturbs_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SPOILER)
    options = {**OPTIONS, "importance": f"{tmp_path}/mine.py:Spoiler", "output": tmp_path / "run"}
    model = used_network()
    with nothing_changes(model):
        run = autoprune.search(model, data=dataset(), evaluate=quiet, **options)
    assert quiet(run.model) == run.result["score"]["pruned"]
    assert all(p.any() for p in run.model.parameters() if p.dim() > 1)


def test_a_reward_changes_its_own_measurement_alone(tmp_path: Path) -> None:
    def spoils(found: Any) -> float:
        value = found.scores.top1 - found.costs["params"] / found.dense_costs["params"]
        found.costs.clear()
        found.dense_costs.clear()
        return float(value)

    run = autoprune.search(
        used_network(), data=dataset(), reward=spoils, output=tmp_path / "run", **OPTIONS
    )
    assert run.result["costs"]["dense"]["flops"] > run.result["costs"]["pruned"]["flops"] > 0
    assert run.result["search"]["failed"] == 0

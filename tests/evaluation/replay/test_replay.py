"""A network resumed in the middle returns what it returns from the start, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.evaluation.replay.replay import advance, resume
from autoprune.evaluation.replay.script import NotReplayable, Script, StandIn, record
from autoprune.structure.surgery import named_tensors

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
NOWHERE = torch.tensor(2.0)


def names(script: Script) -> list[str]:
    return [step.func.overloadpacket.__name__ for step in script.steps]


def layers(net: Any, forward: Callable[[Any, Tensor], Any]) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = net(
        forward, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1), head=nn.Conv2d(4, 2, 1)
    )
    return model.eval()


def changed(net: Any, forward: Callable[[Any, Tensor], Any], layer: str) -> nn.Module:
    """The same network but for one layer's weights."""
    model = layers(net, forward)
    with torch.no_grad():
        model.get_parameter(f"{layer}.weight").mul_(2)
    return model


def check(net: Any, forward: Callable[[Any, Tensor], Any], layer: str, start: int) -> Script:
    """Resume two networks in turn that differ from the base in one layer; return the script."""
    base, other = layers(net, forward), changed(net, forward, layer)
    script = record(base, X)
    assert script.first_change(named_tensors(base), named_tensors(other)) == start
    alive = advance(base, X, script, 0, start, {})
    with torch.inference_mode():
        expected, again = other(X), base(X)
    # What the first one does in place must not be seen by the second one.
    assert torch.equal(resume(other, X, script, start, alive), expected)
    assert torch.equal(resume(base, X, script, start, alive), again)
    return script


def plain(m: Any, x: Tensor) -> Tensor:
    out: Tensor = m.head(F.relu(m.b(F.relu(m.a(x)))))
    return out


def test_the_script_names_every_operator(net: Any) -> None:
    script = check(net, plain, "b", 2)
    assert names(script) == ["conv2d", "relu", "conv2d", "relu", "conv2d"]


def test_memory_at_the_boundary_by_hand(net: Any) -> None:
    def residual(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        left, right = m.b(h).chunk(2, 1)
        out: Tensor = m.head(h + torch.cat([left, right.relu()], 1))
        return out

    script = check(net, residual, "head", 6)
    four = 2 * 4 * 16 * 4  # bytes of four channels
    # h; h and b's output; the same, of which both halves are views; and half as much for the relu.
    assert [script.live_bytes(i) for i in range(1, 5)] == [four, 2 * four, 2 * four, 2.5 * four]
    assert script.live_bytes(0) == 0 and script.live_bytes(6) == four


def test_work_in_place_after_the_boundary_leaves_the_cache_whole(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        left, _ = h.chunk(2, 1)
        y = m.b(h)
        left.add_(1)  # seen in h, of which it is a view
        out: Tensor = m.head(y + h.relu_())
        return out

    check(net, forward, "b", 2)


def test_work_in_place_before_the_boundary(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        view = h[:, 1:]
        h.relu_()
        y = F.pad(view.mul_(2), (0, 0, 0, 0, 1, 0))
        out: Tensor = m.head(m.b(y) + h)
        return out

    check(net, forward, "b", 5)


def test_inputs_and_tuples_are_read_late(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        values, places = F.max_pool2d(m.a(x), 2, return_indices=True)
        y = F.max_unpool2d(m.b(values), places, 2)
        out: Tensor = m.head(y) + x[:, :2].flip(1)
        return out

    check(net, forward, "b", 2)


@pytest.mark.parametrize(
    ("barrier", "at"),
    [
        (lambda x: x * 2 if x.sum().item() > 1e9 else x, 2),
        (lambda x: x + torch.rand_like(x), 1),
        (lambda x: F.dropout(x, 0.5, training=True), 1),
        (lambda x: x * NOWHERE, 1),
    ],
    ids=["control flow on values", "noise", "dropout", "a tensor from nowhere"],
)
def test_nothing_is_shared_behind_what_cannot_be_repeated(
    barrier: Callable[[Tensor], Tensor], at: int, net: Any
) -> None:
    def forward(m: Any, x: Tensor) -> Any:
        return m.head(m.b(barrier(m.a(x))))

    base, other = layers(net, forward), changed(net, forward, "head")
    assert record(base, X).first_change(named_tensors(base), named_tensors(other)) == at


def test_dropout_that_is_off_is_no_barrier(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Any:
        return m.head(m.b(F.dropout(m.a(x), 0.5, training=False)))

    check(net, forward, "head", 3)


def test_buffers_that_are_written_to_are_a_barrier(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Any:
        return m.head(m.b(m.a(x) + m.a.bias.detach().add_(0).sum()))

    base, other = layers(net, forward), changed(net, forward, "head")
    script = record(base, X)
    start = script.first_change(named_tensors(base), named_tensors(other))
    assert names(script)[start] == "add_"


@pytest.mark.parametrize(
    "leak",
    [
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x.resize_(1),
        lambda x: x.unsqueeze_(0).squeeze_(0),
    ],
)
def test_values_never_slip_out_unseen(leak: Callable[[Tensor], Any], net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Any:
        h = m.a(x)
        leak(h)
        return m.head(m.b(h))

    with pytest.raises((NotReplayable, RuntimeError)):
        record(layers(net, forward), X)


def test_another_operator_leaves_the_script(net: Any) -> None:
    base = layers(net, plain)
    script = record(base, X)
    alive = advance(base, X, script, 0, 4, {})
    for other in (
        lambda m, x: m.head(F.relu(m.b(F.gelu(m.a(x))))),
        lambda m, x: m.head(F.relu(m.a(F.relu(m.a(x))))),
        lambda m, x: m.head(F.relu(F.conv2d(F.relu(m.a(x)), m.b.weight))),
        lambda m, x: m.head(F.relu(F.conv2d(F.relu(m.a(x)), m.b.weight, torch.zeros(4)))),
        lambda m, x: m.head(F.relu(F.conv2d(F.relu(m.a(x)), m.b.weight, m.b.bias, 1, 0, 1, 2))),
    ):
        with pytest.raises(NotReplayable, match=r"operator [12] is"):
            resume(layers(net, other), X, script, 4, alive)


def test_leaving_the_script_cannot_be_swallowed(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Any:
        h = F.relu(m.a(x))
        try:
            h = h.sigmoid()
        except Exception:
            h = F.relu(m.b(h))
        return m.head(h)

    base = layers(net, plain)
    script = record(base, X)
    alive = advance(base, X, script, 0, 4, {})
    with pytest.raises(NotReplayable):
        resume(layers(net, forward), X, script, 4, alive)


def test_reading_what_is_gone_leaves_the_script(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Any:
        h = F.relu(m.a(x))
        return m.head(F.relu(m.b(h))) + h[:, :2]

    base = layers(net, plain)
    script = record(base, X)
    with pytest.raises(NotReplayable, match="read no more"):
        resume(layers(net, forward), X, script, 4, advance(base, X, script, 0, 4, {}))


def test_writing_where_the_base_only_reads_leaves_the_script(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Any:
        return m.head(F.relu(m.b(F.relu(m.a(x)).mul_(2))))

    base = layers(net, plain)
    script = record(base, X)
    alive = advance(base, X, script, 0, 2, {})
    before = {made: tensor.clone() for made, tensor in alive.items()}
    with pytest.raises(NotReplayable, match="only read"):
        resume(layers(net, forward), X, script, 2, alive)
    assert all(torch.equal(alive[made], tensor) for made, tensor in before.items())


def test_stand_ins_hold_no_data() -> None:
    like = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    stand_in = StandIn(like, None, 0, None)  # type: ignore[arg-type]
    assert stand_in.shape == like.shape and stand_in.stride() == like.stride()
    assert stand_in.dtype == like.dtype and stand_in.device == like.device
    with pytest.raises(NotReplayable, match="not computed"):
        stand_in + 1

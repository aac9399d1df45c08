"""The contract of a latency backend, as tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.cost.latency.signature import Signature
from autoprune.profiling.backends.base import Backend
from autoprune.structure.tracing.trace import trace

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def layers() -> nn.Module:
    """Return a network with every kind of layer that backends measure, for images (3, 8, 8)."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.Conv2d(6, 6, 3, dilation=2, padding=2, groups=3),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.ConvTranspose2d(6, 4, 2, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 64, 5),
    ).eval()


class SeveralInputs(nn.Module):
    """A network of an image, tokens and an unused input, with a list and a dict as outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.words, self.head = nn.Conv2d(1, 4, 3), nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, image: Tensor, tokens: Tensor, unused: Tensor) -> Any:
        """Return scores of the image, and of both."""
        seen, read = self.conv(image).mean((2, 3)), self.words(tokens).mean(1)
        return [self.head(seen), {"both": self.head(seen + read)}]


def several_inputs() -> dict[str, Tensor]:
    """Return a batch for `SeveralInputs`, by the names of its arguments."""
    return {
        "image": torch.rand(1, 1, 6, 6),
        "tokens": torch.tensor([[1, 8]]),
        "unused": torch.ones(1, 2),
    }


class BackendContract:
    """Tests that every backend passes; override `make`."""

    def make(self) -> Backend:
        """Return the backend under test."""
        raise NotImplementedError

    def test_it_names_device_and_versions(self) -> None:
        """Tables say what they were measured on."""
        backend = self.make()
        assert backend.name and backend.device_name().strip()
        versions = backend.versions()
        assert versions and all(map(str.strip, versions.values()))
        assert backend.default_threads() >= 1

    def test_every_kind_of_layer_is_measured(self) -> None:
        """Runs of single layers take a positive, finite time."""
        backend = self.make()
        structure = trace(layers(), IMAGE)
        with backend.session():
            runs = [backend.layer(Signature.of(spec, structure)) for spec in structure.layers]
            timings = backend.measure(runs)
        assert len(timings) == len(runs) == 5
        assert all(timing.is_sound and timing.repeats >= 1 for timing in timings)

    def test_a_network_is_measured_and_left_unchanged(self) -> None:
        """The network keeps its tensors, their layout and precision, and its mode."""
        backend = self.make()
        network = layers().train()
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        with backend.session():
            (timing,) = backend.measure([backend.network(network, IMAGE)])
        assert timing.is_sound
        for name, tensor in network.state_dict().items():
            assert tensor.dtype == torch.float32 and tensor.is_contiguous()
            assert torch.equal(tensor, before[name])
        assert network.training

    @pytest.mark.parametrize(
        "form", [dict, lambda inputs: tuple(inputs.values())], ids=["dict", "tuple"]
    )
    def test_networks_of_several_inputs_run(self, form: Callable[[dict[str, Tensor]], Any]) -> None:
        """Inputs are a dict of arguments by name, or a tuple of positional arguments."""
        backend = self.make()
        with backend.session():
            backend.network(SeveralInputs().eval(), form(several_inputs()))()

    def test_a_session_ends_as_it_began(self) -> None:
        """The number of threads of this process is restored."""
        backend, threads = self.make(), torch.get_num_threads()
        with backend.session():
            pass
        assert torch.get_num_threads() == threads

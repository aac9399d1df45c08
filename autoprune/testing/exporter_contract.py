"""The contract of an exporter, as tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.data.forms import Inputs, tensors
from autoprune.errors import UsageError
from autoprune.exporters.base import Exporter
from autoprune.exporters.checking import TOLERANCE, deviation
from autoprune.profiling.backends.registry import backend_class
from autoprune.structure.inputs import sample
from autoprune.testing.backend_contract import IMAGE, SeveralInputs, layers, several_inputs
from autoprune.testing.small_networks import IMAGES, randomized, residual


class ExporterContract:
    """Tests that every exporter passes; override `make`."""

    def make(self) -> Exporter:
        """Return the exporter under test."""
        raise NotImplementedError

    def test_it_describes_itself(self) -> None:
        """Users name it and its files; its runtime can be measured."""
        exporter = self.make()
        exporter.check()
        assert exporter.name and exporter.suffixes
        assert all(suffix.startswith(".") for suffix in exporter.suffixes)
        assert backend_class(exporter.backend).default_threads() >= 1

    @pytest.mark.parametrize("network", [layers, residual])
    def test_a_file_computes_what_the_network_does(
        self, network: Callable[[], nn.Module], tmp_path: Path
    ) -> None:
        """Outputs are equal for one sample, and for several where the batch size is free."""
        inputs = torch.cat([IMAGE] * 3) if network is layers else IMAGES[:3]
        model = network() if network is layers else randomized(network())
        self._check(model.eval(), inputs, tmp_path)

    @pytest.mark.parametrize(
        "form", [dict, lambda inputs: tuple(inputs.values())], ids=["dict", "tuple"]
    )
    def test_networks_of_several_inputs(
        self, form: Callable[[dict[str, Tensor]], Any], tmp_path: Path
    ) -> None:
        """Inputs are a dict of arguments by name, or a tuple; one of them is not read."""
        self._check(SeveralInputs().eval(), form(sample(several_inputs(), 3)), tmp_path)

    def test_it_writes_its_files_and_no_others(self, tmp_path: Path) -> None:
        """There is one file for every suffix."""
        exporter = self.make()
        exporter.write(exporter.program(layers(), IMAGE), tmp_path / f"a{exporter.suffixes[0]}")
        assert {path.name for path in tmp_path.iterdir()} == {
            f"a{one}" for one in exporter.suffixes
        }

    def test_int8_is_made_or_refused(self, tmp_path: Path) -> None:
        """An int8 file is smaller, and near the float file; without int8, one line says so."""
        exporter = self.make()
        if not exporter.int8_modules:
            with pytest.raises(UsageError, match="int8 is not supported yet"):
                exporter.check(is_int8=True)
            return
        exporter.check(is_int8=True)
        images = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU())
        model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 8)]).eval()
        whole, small = (tmp_path / f"{name}{exporter.suffixes[0]}" for name in ("a", "b"))
        exporter.write(exporter.program(model, images), whole)
        exporter.quantize(whole, [[one[None]] for one in images], small)
        found = deviation(exporter.open(small, 1), model, [images[:1], images])
        assert TOLERANCE < found.relative < 0.1
        sizes = [
            sum(path.with_suffix(suffix).stat().st_size for suffix in exporter.suffixes)
            for path in (whole, small)
        ]
        assert sizes[1] < sizes[0]

    def _check(self, model: nn.Module, inputs: Inputs, folder: Path) -> None:
        """Write a network, open the file again, and compare them."""
        exporter = self.make()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        path = folder / f"network{exporter.suffixes[0]}"
        program = exporter.program(model, inputs)
        assert program.takes_any_batch == exporter.any_batch
        exporter.write(program, path)
        assert all(torch.equal(own, before[name]) for name, own in model.state_dict().items())
        batches = [sample(inputs, 1), *([inputs] if exporter.any_batch else [])]
        assert len(tensors(inputs)[0]) > 1
        found = deviation(exporter.open(path, 1), model, batches)
        assert found.relative <= TOLERANCE

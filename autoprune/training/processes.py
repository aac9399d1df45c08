"""The processes that train a network together: this one, or several with a device each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import UsageError
from autoprune.structure.inputs import device_of
from autoprune.training.choices import AUTO, SINGLE


class Processes:
    """One process on one device.

    Attributes:
        rank: number of this process, from 0; that of rank 0 writes files.
        count: number of processes, which share every batch.
    """

    rank, count = 0, 1

    def prepare(
        self, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return the network to call in training, and its optimizer."""
        return network, optimizer

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, averaged over processes."""
        loss.backward()

    def agree(self, value: Any) -> Any:
        """Return the value of rank 0."""
        return value


class AcceleratedProcesses(Processes):
    """Processes that Hugging Face Accelerate or torchrun started, one per device."""

    def __init__(self) -> None:
        """Join the other processes.

        Raises:
            UsageError: Accelerate is not installed.
        """
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise UsageError(
                "training in several processes needs Accelerate: pip install 'autoprune[multi]'."
            ) from error
        self._accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.rank = self._accelerator.process_index
        self.count = self._accelerator.num_processes

    def prepare(
        self, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return the network wrapped so that gradients are averaged."""
        wrapped, prepared = self._accelerator.prepare(network, optimizer)
        return wrapped, prepared

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, averaged over processes."""
        self._accelerator.backward(loss)

    def agree(self, value: Any) -> Any:
        """Return the value of rank 0."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]


def find_processes() -> Processes:
    """Return the processes that this one was started with."""
    return AcceleratedProcesses() if _are_several() else Processes()


def refuse_several(what: str) -> None:
    """Refuse what one process must do alone.

    Raises:
        UsageError: several processes were started together.
    """
    if _are_several():
        raise UsageError(
            f"{what} runs in one process: start it without torchrun or accelerate launch."
        )


def _are_several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def autocast_dtype(precision: str, network: nn.Module) -> torch.dtype | None:
    """Return the precision that matrix products are computed in; None for the network's own.

    Args:
        precision: one of `choices.PRECISIONS`; "auto" is bfloat16 where the device
            multiplies it natively, but not for networks in float16, which it does not mix with.
        network: the network.
    """
    is_half = any(one.dtype == torch.float16 for one in network.parameters())
    suits = not is_half and _multiplies_bfloat16(device_of(network))
    if precision == SINGLE or (precision == AUTO and not suits):
        return None
    return torch.bfloat16


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    probes: Iterator[Any] = (
        getattr(torch.cpu, name, None)
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return any(probe is not None and probe() for probe in probes)

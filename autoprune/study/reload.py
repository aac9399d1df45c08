"""The networks of a finished run."""

from __future__ import annotations

from torch import nn

from autoprune.core.files import load_state, misfits
from autoprune.errors import ModelError, RunError, file_fault, text_of
from autoprune.structure import surgery
from autoprune.study.run_directory import RunDirectory


def load_network(model: nn.Module, run: RunDirectory, weights: str | None = None) -> nn.Module:
    """Return the pruned network of a run, in evaluation mode.

    Args:
        model: the dense network's architecture; its weights do not matter.
        run: the run directory.
        weights: one of `run_directory.WEIGHTS`; by default the last of the first
            three that there is.

    Raises:
        ModelError: the run is of another network.
        RunError: it is unfinished or damaged.
        UsageError: it has no such weights.
    """
    policy = run.load_policy()
    small = surgery.apply_policy(model, policy)
    state = run.load_weights(small.state_dict(), weights)
    try:
        surgery.add_biases(small, state)
        surgery.add_buffers(small, state, state.buffers, policy)
        if wrong := misfits(state, small.state_dict()):
            raise ValueError(f"of another shape or type: {wrong[0]}")
        small.load_state_dict(state.with_defaults(small.state_dict()))
    except Exception as error:  # whatever a module's own way to load raises
        reason = " ".join(text_of(error).split())[:300]
        raise ModelError(
            f"the weights in {str(run.path)!r} do not fit the network: {reason}"
        ) from error
    return small.eval()


def load_trained(dense: nn.Module, run: RunDirectory) -> None:
    """Give the dense network of a run the weights that training with a method left, if it did.

    Args:
        dense: the network; changed in place.
        run: the run directory.

    Raises:
        RunError: the weights are damaged.
        ModelError: they are of another network.
    """
    path = run.method.weights_path
    if not path.exists():
        return
    own = dense.state_dict()
    try:
        state = load_state(path, own)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {str(path)!r}: {file_fault(error)}") from error
    if wrong := misfits(state, own):
        raise ModelError(f"the weights in {str(path)!r} do not fit the network: {wrong[0]}")
    dense.load_state_dict(state.with_defaults(own))

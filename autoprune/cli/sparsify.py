"""`autoprune sparsify`: set single weights to zero, and train the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.cli.train import run_train
from autoprune.options.sparsify import OPTIONS, SparsifyConfig


def sparsify(given: Mapping[str, Any]) -> None:
    """Set single weights of a network to zero, in a pattern, and train the others.

    No channel goes: files are as large as before unless they are compressed, and only runtimes
    that make use of zeros are faster. The run directory is that of `autoprune train`. Without
    --model and --data the built-in demo is taken.
    """
    own = {name: value for name, value in given.items() if name in OPTIONS}
    rest = {name: value for name, value in given.items() if name not in OPTIONS}
    goes_on = rest.get("resume") and not own
    config = None if goes_on else SparsifyConfig.from_mapping(own)
    if config is not None and not rest.get("resume"):
        config.refuse_unused()
    wanted = {} if config is None else config.training()
    run_train({**rest, **wanted}, "sparsify")

"""The images of a search, and a batch of them."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

from autoprune.core.progress import Progress
from autoprune.data import Partition, Samples, SplitSizes, as_splits, partition
from autoprune.data.forms import map_tensors, plain, sample_shapes
from autoprune.errors import DataError
from autoprune.options.search import SearchConfig
from autoprune.structure.inputs import Inputs, adapt_splits, device_of, input_adapter

log = logging.getLogger(__name__)


def draw_images(
    model: nn.Module, data: Any, config: SearchConfig, progress: Progress, annotated: bool = False
) -> Partition:
    """Return the images of a search, on the model's device.

    Args:
        model: the network.
        data: as the user gave it.
        config: options of the search.
        progress: told how many images are read.
        annotated: whether their annotations are kept, which training reads.

    Raises:
        DataError: too few, not finite, or of a form that is not understood.
    """
    sizes = SplitSizes(config.calibration_samples, config.search_samples, config.selection_samples)
    splits = adapt_splits(as_splits(data), model)
    images = partition(
        splits if annotated else splits.without_annotations(),
        sizes,
        config.seed,
        note=log.info,
        step=lambda d, t: progress.step("images", d, t),
    )
    return images.to(device_of(model))


def check_example(model: nn.Module, example: Inputs, like: Inputs) -> Inputs:
    """Statistics are gathered where the trace saw layers: forms and shapes must agree."""
    example = plain(example, "example_inputs")
    example = input_adapter(model, example, "example_inputs")(example)
    if sample_shapes(example) != sample_shapes(like):
        seen, own = (Samples(one, None).shape for one in (example, like))
        raise DataError(f"example_inputs have samples of {seen}, but the data's are {own}.")
    device = device_of(model)
    placed: Inputs = map_tensors(lambda one: one.to(device), example)
    return placed

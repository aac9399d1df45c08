"""`autoprune inspect`: what can be pruned, what cannot and why, and the cost by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autoprune.options.commands import InspectOptions
from autoprune.options.option import read_options

if TYPE_CHECKING:
    from torch import nn

    from autoprune.cost.model import CostModel
    from autoprune.data.forms import Inputs
    from autoprune.options.commands import ProfileOptions
    from autoprune.search_spaces.keep_ratio import SearchSpace
    from autoprune.structure.groups import Structure


def inspect(given: Mapping[str, Any]) -> None:
    """Show what can be pruned, what cannot and why, and what every layer costs.

    FLOPs are multiply-accumulates (MACs) of convolutions and matrix products for one input,
    attention and recurrent networks included; operators that are not counted are named.
    """
    options = read_options(InspectOptions, given)

    from autoprune.cli.display import print_json, show_inspection, warn
    from autoprune.core.progress import Progress
    from autoprune.core.randomness import kept_random_states
    from autoprune.cost import cost_models
    from autoprune.data.forms import sample_shapes
    from autoprune.engine.problem import prunable_structure
    from autoprune.models import DEMO
    from autoprune.models.loading import load_model
    from autoprune.search_spaces.keep_ratio import search_space

    spec = options.model or DEMO
    network = load_model(spec, options.weights)
    inputs = example_inputs(spec, network, options)
    with kept_random_states():
        structure = prunable_structure(network, inputs, options, Progress())
    for note in structure.training.notes():
        warn(note)
    space = search_space(structure, options.min_keep or None)
    report = {
        "model": spec,
        "input_shape": sample_shapes(inputs),
        **describe(structure, space, cost_models(structure)),
    }
    (print_json if options.json else show_inspection)(report)


def describe(
    structure: Structure, space: SearchSpace, costs: Mapping[str, CostModel]
) -> dict[str, Any]:
    """Return what there is to say about a network's structure, as plain values."""
    from autoprune.core.records import plain

    macs, params = (costs[name].by_layer(structure.dense_widths) for name in ("flops", "params"))
    total = sum(macs.values())
    groups = []
    for group, lowest in zip(structure.groups, space.lowest, strict=True):
        owners = (structure.layer_of_weight.get(one.tensor) for one in group.slices)
        layers = {layer.name for layer in owners if layer is not None}
        groups.append(
            {
                "name": group.name,
                "units": group.size,
                "channels": sum(
                    s.positions.size for s in group.slices if s.tensor == group.producers[0]
                ),
                "lowest": lowest,
                "producers": list(group.producers),
                "consumers": sorted({consumer.tensor for consumer in group.consumers}),
                "rescaled_by": list(structure.rescaled_by(group)),
                "macs_share": sum(macs[layer] for layer in layers) / total if total else 0.0,
            }
        )
    kinds = {layer.name: layer.kind for layer in structure.layers}
    names = [*macs, *(name for name in params if name not in macs)]
    return {
        "dense": {name: round(cost.total(structure.dense_widths)) for name, cost in costs.items()},
        "smallest": {name: round(cost.total(space.lowest)) for name, cost in costs.items()},
        "groups": groups,
        "frozen": [
            {"name": one.name, "units": one.size, "reason": one.reason} for one in structure.frozen
        ],
        "edits": [{"name": edit.name, **plain(edit)} for edit in structure.edits],
        "not_counted": list(structure.uncounted),
        "layers": [
            {
                "name": name,
                "kind": kinds.get(name, "other"),
                "flops": round(macs.get(name, 0)),
                "params": round(params.get(name, 0)),
            }
            for name in names
        ],
    }


def example_inputs(spec: str, model: nn.Module, options: InspectOptions | ProfileOptions) -> Inputs:
    """Return two inputs: of the data, or random ones."""
    import torch

    from autoprune.cli.display import warn
    from autoprune.core.plugins import names_object
    from autoprune.core.precision import float_dtype
    from autoprune.data import has_photos, load_splits
    from autoprune.errors import UsageError
    from autoprune.models.input_shapes import (
        declared_image_size,
        default_input_shape,
        parse_shape,
    )
    from autoprune.structure.inputs import adapt_splits

    data, shape = options.data, options.input_shape
    if data is not None and shape is not None:
        raise UsageError("--input-shape and --data both say what the inputs are: give one of them.")
    if data is not None:
        size = declared_image_size(model) if has_photos(data) else None
        splits = load_splits(data, options.normalize, image_size=size)
        train = adapt_splits(splits, model).train
        return train.take(range(min(2, len(train)))).inputs
    sizes = parse_shape(shape) if shape else default_input_shape(spec, model)
    if shape is None and names_object(spec):
        assumed = "x".join(map(str, sizes))
        warn(f"inputs are taken to be {assumed}; give --input-shape CxHxW or --data if not.")
    drawn = torch.randn(2, *sizes, generator=torch.Generator().manual_seed(0))
    return drawn.to(float_dtype(model))

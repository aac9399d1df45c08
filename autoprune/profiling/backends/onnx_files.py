"""Single layers as ONNX models of a few hundred bytes.

Weights are stored as a single value to be repeated. ONNX Runtime expands them into constants when
it loads the model, so that it treats them like the weights of any other network.
"""

from __future__ import annotations

import math
from typing import Any

from autoprune.cost.latency.signature import Signature

INPUT, OUTPUT = "x", "y"
WEIGHT = 0.01
# Constants with at most this many elements are kept.
LIGHT = 64
ONNX_DTYPES = {"float32": "FLOAT", "float16": "FLOAT16"}
# Versions that every recent ONNX Runtime reads.
OPSET, IR_VERSION = 17, 8


def layer_model(signature: Signature, batch: int, dtype: str = "float32") -> bytes:
    """Return the serialised ONNX model of one layer; `dtype` is one of `ONNX_DTYPES`."""
    from onnx import TensorProto, helper

    element = getattr(TensorProto, ONNX_DTYPES[dtype])
    weight, bias = list(signature.weight_shape), [signature.channels_out]
    if not signature.kernel:
        weight.reverse()  # a matrix product takes (in, out)
    constants = {"w_shape": weight, "b_shape": bias}
    nodes = [
        helper.make_node(
            "ConstantOfShape",
            [f"{name}_shape"],
            [name],
            value=helper.make_tensor("value", element, [1], [WEIGHT]),
        )
        for name in ("w", "b")
    ]
    graph = helper.make_graph(
        [*nodes, *_layer_nodes(signature)],
        "layer",
        [helper.make_tensor_value_info(INPUT, element, signature.input_shape(batch))],
        [helper.make_tensor_value_info(OUTPUT, element, None)],
        [
            helper.make_tensor(name, TensorProto.INT64, [len(shape)], shape)
            for name, shape in constants.items()
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    serialised: bytes = model.SerializeToString()
    return serialised


def _layer_nodes(signature: Signature) -> list[Any]:
    from onnx import helper

    if not signature.kernel:
        return [
            helper.make_node("MatMul", [INPUT, "w"], ["product"]),
            helper.make_node("Add", ["product", "b"], [OUTPUT]),
        ]
    return [
        helper.make_node(
            "ConvTranspose" if signature.is_transposed else "Conv",
            [INPUT, "w", "b"],
            [OUTPUT],
            kernel_shape=signature.kernel,
            strides=signature.stride,
            pads=signature.padding * 2,
            dilations=signature.dilation,
            group=signature.groups,
        )
    ]


def with_light_weights(model: bytes) -> bytes:
    """Return an ONNX model with every large constant replaced by a repeated value."""
    import onnx
    from onnx import helper

    network = onnx.load_from_string(model)
    graph = network.graph
    heavy = [one for one in graph.initializer if math.prod(one.dims) > LIGHT and one.dims]
    for place, one in enumerate(heavy):
        shape = helper.make_tensor(f"{one.name}_shape", 7, [len(one.dims)], list(one.dims))
        value = helper.make_tensor("value", one.data_type, [1], [WEIGHT])
        node = helper.make_node("ConstantOfShape", [shape.name], [one.name], value=value)
        graph.initializer.remove(one)
        graph.initializer.append(shape)
        graph.node.insert(place, node)
    serialised: bytes = network.SerializeToString()
    return serialised

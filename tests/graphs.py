"""ONNX graphs: nets that are exported, distances in the broadcast form, chains of nodes; and how they are run."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.inliner import inline_local_functions

NETS = {
    "one-distance": ("linf-mlp", {"width": 4, "depth": 1}),
    "distances": ("linf-mlp", {"width": 6, "depth": 3}),
    "head": ("linf-mlp-head", {"width": 6, "depth": 2, "hidden": 4}),
    "convolution": ("linf-conv", {"shape": (2, 8, 8), "channels": (2, 3), "strides": (1, 2), "width": 5}),
    "two-means": ("linf-conv", {"shape": (2, 8, 8), "mean": (0.3, 0.4), "std": 1.0, "channels": (4,), "strides": (2,)}),
    "crop": ("linf-mlp", {"shape": (3, 6, 7), "mean": (0.1, 0.2, 0.3), "width": 6, "depth": 2, "crop": 3}),
    "relu": ("relu-mlp", {"width": 6, "depth": 2}),
    "relu-convolution": ("relu-conv", {"channels": (2, 3), "strides": (1, 2), "width": 6}),
}
each_form = pytest.mark.parametrize("form", [lambda m: m, inline_local_functions], ids=["nodes", "inlined"])
W = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
V = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)


def run(model: onnx.ModelProto, x: torch.Tensor) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})


def operators(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def model_of(nodes, opset=18, shape=("N", 6), outputs=("y",), **constants) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def distance(x, w, y, opset, order=1, axis=1, last=-1) -> list[onnx.NodeProto]:
    """ReduceMax(|Unsqueeze(x) − w|), axes as the opset wants them; the constants are named one and last."""
    node = helper.make_node
    pair = [f"{y}.x", w][::order]
    return [
        node("Unsqueeze", [x], [f"{y}.x"], axes=[axis]) if opset < 13 else node("Unsqueeze", [x, "one"], [f"{y}.x"]),
        node("Sub", pair, [f"{y}.t"]),
        node("Abs", [f"{y}.t"], [f"{y}.z"]),
        node("ReduceMax", [f"{y}.z"], [y], keepdims=0, axes=[last])
        if opset < 18
        else node("ReduceMax", [f"{y}.z", "last"], [y], keepdims=0),
    ]


def chain(*nodes, opset=18, shape=("N", 6), **constants) -> onnx.ModelProto:
    """x → the nodes, one after the other → y; each is (operator, further inputs, attributes)."""
    names = ["x", *(f"h{i}" for i in range(1, len(nodes))), "y"]
    made = [
        helper.make_node(op, [names[i] if n == "·" else n for n in inputs], [names[i + 1]], name=f"n{i}", **attributes)
        for i, (op, inputs, attributes) in enumerate(nodes)
    ]
    return model_of(made, opset, shape, **constants)

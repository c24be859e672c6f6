"""The ways to compute a distance: by broadcast, by a body, by the compiled operator, and in PyTorch."""

import math
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from linf_plugin.ops.distance import dist

from ..functions.domain import LINF, OPSET
from ..functions.library import attach
from ..running import native

# Way → its name in the table.
WAYS = {"broadcast": "broadcast", "body": "body", "native": "compiled", "torch": "linf_plugin", "cdist": "torch.cdist"}
IN_ONNX = ("broadcast", "body", "native")


def _nodes(way: str, case: dict) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """The nodes x, w → y, and the constants that they need."""
    name, attributes = ("Linf", {}) if case["p"] == math.inf else ("Lp", {"p": case["p"]})
    if "pixels" in case:
        half = case["kernel"] // 2
        conv = {"strides": [1, 1], "pads": [half] * 4, "dilations": [1, 1]}
        return [helper.make_node(f"{name}DistConv", ["x", "w"], ["y"], domain=LINF.domain, **conv, **attributes)], {}
    if way != "broadcast":
        return [helper.make_node(f"{name}Dist", ["x", "w"], ["y"], domain=LINF.domain, **attributes)], {}
    steps = [("Unsqueeze", ["x", "one"], "a"), ("Sub", ["a", "w"], "d"), ("Abs", ["d"], "z")]
    constants = {"one": np.int64([1]), "last": np.int64([-1])}
    if case["p"] == math.inf:
        steps += [("ReduceMax", ["z", "last"], "y")]
    else:
        steps += [("Pow", ["z", "p"], "s"), ("ReduceSum", ["s", "last"], "t"), ("Pow", ["t", "q"], "y")]
        constants |= {"p": np.float32(case["p"]), "q": np.float32(1 / case["p"])}
    keep = {"ReduceMax": {"keepdims": 0}, "ReduceSum": {"keepdims": 0}}
    return [helper.make_node(op, inputs, [output], **keep.get(op, {})) for op, inputs, output in steps], constants


def model(way: str, case: dict, w: Tensor) -> onnx.ModelProto:
    """A model x → y that computes a distance in one of the ways of ``IN_ONNX``."""
    nodes, constants = _nodes(way, case)
    sizes = [case["pixels"]] * 2 if "pixels" in case else []
    graph = helper.make_graph(
        nodes,
        "distance",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", case["in"], *sizes])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", case["out"], *sizes])],
        [numpy_helper.from_array(np.asarray(a), key) for key, a in {"w": w.numpy(), **constants}.items()],
    )
    return attach(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10))


def _onnx_call(way: str, case: dict, w: Tensor, threads: int) -> Callable[[Tensor], np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as onnx_export.running.session
    options.add_session_config_entry("session.force_spinning_stop", "1")  # nor do they slow down the next way
    if way == "native" and (reason := native.register(options)):
        raise RuntimeError(reason)
    content = model(way, case, w).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x.numpy()})[0]


def _cdist(x: Tensor, w: Tensor, p: float) -> Tensor:
    if x.dim() == 2:
        return torch.cdist(x, w, p)
    windows = F.unfold(x, w.shape[2:], padding=w.shape[-1] // 2).transpose(1, 2)
    y = torch.cdist(windows.flatten(0, 1), w.flatten(1), p)
    return y.unflatten(0, (len(x), -1)).transpose(1, 2).unflatten(2, x.shape[2:])


def ours(x: Tensor, w: Tensor, p: float) -> Tensor:
    """The distances by linf_plugin."""
    if x.dim() == 2:
        return dist(x, w, p)
    return torch.ops.linf.dist_conv2d(x, w, p, [1, 1], [w.shape[-1] // 2] * 2, [1, 1], 1)


def call(way: str, case: dict, w: Tensor, threads: int) -> Callable[[Tensor], np.ndarray]:
    """A function from x to the distances by one of ``WAYS``.

    Args:
        threads: on how many threads it runs.  PyTorch's number of threads is set for the process.

    Raises:
        RuntimeError: the compiled operator cannot be used.
    """
    torch.set_num_threads(threads)
    if way in IN_ONNX:
        return _onnx_call(way, case, w, threads)
    function = {"torch": ours, "cdist": _cdist}[way]
    return lambda x: function(x, w, case["p"]).numpy()

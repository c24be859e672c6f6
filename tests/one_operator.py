"""ONNX models of one operator of the domain ``linf``: made, run in onnxruntime and in ONNX's own evaluator."""

import numpy as np
import onnx
import onnxruntime
import torch
from cases import INF, value_tolerance
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import linf_plugin
from linf_plugin.kernels import reference
from onnx_export.functions.domain import LINF, OPSET
from onnx_export.functions.library import attach


def one_node(
    name: str, inputs: dict, constants: dict, shape: tuple, outputs: tuple = ("y",), **attributes
) -> onnx.ModelProto:
    """A checked model of one node: ``inputs`` (a batch of each) and ``constants`` are arrays, in order."""
    dtype = helper.np_dtype_to_tensor_dtype(next(iter(inputs.values())).dtype)
    graph = helper.make_graph(
        [helper.make_node(name, [*inputs, *constants], outputs, domain=LINF.domain, **attributes)],
        "g",
        [helper.make_tensor_value_info(key, dtype, ["n", *a.shape[1:]]) for key, a in inputs.items()],
        [helper.make_tensor_value_info(key, dtype, ["n", *shape[1:]]) for key in outputs],
        [numpy_helper.from_array(a, key) for key, a in constants.items()],
    )
    model = attach(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10))
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return model


def all_in_onnxruntime(model: onnx.ModelProto, **inputs) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def in_onnxruntime(model: onnx.ModelProto, **inputs) -> np.ndarray:
    (y,) = all_in_onnxruntime(model, **inputs)
    return y


def all_in_evaluator(model: onnx.ModelProto, **inputs) -> list[np.ndarray]:
    with np.errstate(divide="ignore"):  # log 0 is −∞, as it should
        return ReferenceEvaluator(model).run(None, inputs)


def in_evaluator(model: onnx.ModelProto, **inputs) -> np.ndarray:
    (y,) = all_in_evaluator(model, **inputs)
    return y


def exponent(p: float) -> tuple[str, dict]:
    return ("Linf", {}) if p == INF else ("Lp", {"p": p})


def dist_model(x, w, p: float) -> onnx.ModelProto:
    name, attributes = exponent(p)
    return one_node(f"{name}Dist", {"x": x.numpy()}, {"w": w.numpy()}, (len(x), len(w)), **attributes)


def sort_model(x, w, rho: float, k: int) -> onnx.ModelProto:
    c = reference.coefficients(rho, k, w.shape[1])
    return one_node("SortDist", {"x": x.numpy()}, {"w": w.numpy()}, (len(x), len(w)), coefficients=c)


def conv_model(x, w, p: float, conv: tuple, shape: tuple) -> onnx.ModelProto:
    stride, padding, dilation, _ = conv
    name, attributes = exponent(p)
    return one_node(
        f"{name}DistConv",
        {"x": x.numpy()},
        {"w": w.numpy()},
        shape,
        strides=stride,
        pads=[*padding, *padding],
        dilations=dilation,
        **attributes,
    )


def assert_distances(y: np.ndarray, expected: torch.Tensor, dtype: torch.dtype, p: float, features: int) -> None:
    """y has the dtype and, at p = ∞ exactly, the values."""
    assert torch.from_numpy(y).dtype == dtype
    torch.testing.assert_close(
        torch.from_numpy(y).to(expected.dtype), expected, rtol=value_tolerance(dtype, p, features), atol=0
    )


def assert_sorted_sums(y: np.ndarray, x, w, rho: float, k: int) -> None:
    """Of K terms at most: a product each, and additions in any order, lose eps/2 of the sum each."""
    expected = linf_plugin.sorted_dist(x.double(), w.double(), rho, k)
    terms = len(reference.coefficients(rho, k, w.shape[1]))
    tolerance = (terms + 2) * torch.finfo(x.dtype).eps / 2
    assert torch.from_numpy(y).dtype == x.dtype
    torch.testing.assert_close(torch.from_numpy(y).double(), expected, rtol=tolerance, atol=0)


def box_model(name: str, lower, upper, w, shape: tuple, **attributes) -> onnx.ModelProto:
    inputs = {"lower": lower.numpy(), "upper": upper.numpy()}
    return one_node(name, inputs, {"w": w.numpy()}, shape, ("near", "far"), **attributes)


def box_dist_model(lower, upper, w) -> onnx.ModelProto:
    return box_model("LinfBoxDist", lower, upper, w, (len(lower), len(w)))


def box_sort_model(lower, upper, w, rho: float, k: int) -> onnx.ModelProto:
    c = reference.coefficients(rho, k, w.shape[1])
    return box_model("SortBoxDist", lower, upper, w, (len(lower), len(w)), coefficients=c)


def box_conv_model(lower, upper, w, conv: tuple, shape: tuple) -> onnx.ModelProto:
    stride, padding, dilation, _ = conv
    return box_model(
        "LinfBoxDistConv", lower, upper, w, shape, strides=stride, pads=[*padding, *padding], dilations=dilation
    )

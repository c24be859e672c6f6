"""The compiled operators of ``linf_plugin`` in onnxruntime.  They replace the bodies in standard ONNX.

The library of the CPU kernels offers ``LinfDist``, ``LpDist`` and ``LinfBoxDist`` as custom operators of the domain
``linf`` (cpu_onnx.cpp).  They replace functions of the same name in a model, also where another function calls these.
Without them everything runs too, but several times slower.
"""

import ctypes
import functools

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper

from linf_plugin.kernels import cpu
from linf_plugin.ops import distance

from ..functions.domain import LINF, OPSET

ENTRY = "RegisterCustomOps"  # the function in a library of operators that onnxruntime calls


def _probe(options: onnxruntime.SessionOptions) -> str | None:
    """Runs a model of one node without a body; returns what is wrong, or None where it gives ``linf_plugin.dist``."""
    x, w = torch.linspace(-2, 3, 5 * 37).sin().view(5, 37), torch.linspace(1, 9, 11 * 37).cos().view(11, 37)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("LinfDist", ["x", "w"], ["y"], domain=LINF.domain)],
        "probe",
        [value("x", TensorProto.FLOAT, x.shape), value("w", TensorProto.FLOAT, w.shape)],
        [value("y", TensorProto.FLOAT, [len(x), len(w)])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(LINF.domain, LINF.version)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x.numpy(), "w": w.numpy()})
    if not np.array_equal(y, distance.dist(x, w).numpy()):
        return "its distances in onnxruntime are not those in PyTorch"
    return None


@functools.cache
def available() -> tuple[bool, str]:
    """Whether onnxruntime accepts the compiled operators; and their instruction set, or the reason why it does not.

    The first call loads them and runs a small model.
    """
    usable, level = cpu.available()
    if not usable:
        return False, level
    name = cpu.LIBRARY.name
    if not hasattr(ctypes.CDLL(str(cpu.LIBRARY)), ENTRY):
        return False, f"{name} was built without the operators for onnxruntime; {cpu.REBUILD}"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal: the reason is returned
    try:
        options.register_custom_ops_library(str(cpu.LIBRARY))
        wrong = _probe(options)
    except Exception as error:  # onnxruntime's exceptions have no base of their own
        wrong = f"onnxruntime {onnxruntime.__version__} refuses it: {error}"
    return (True, level) if wrong is None else (False, f"{name}: {wrong}")


def register(options: onnxruntime.SessionOptions) -> str | None:
    """Makes sessions with these options use the compiled operators.

    Call it once for some options: onnxruntime refuses to open a session if they were registered twice.

    Returns:
        None, or the reason why the bodies run instead.
    """
    usable, reason = available()
    if not usable:
        return reason
    options.register_custom_ops_library(str(cpu.LIBRARY))
    return None

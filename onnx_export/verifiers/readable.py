"""Any net as an ONNX graph that other verifiers read."""

import logging
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from linf_plugin.models.net import Net

from ..writing.plain import verifier_model

LOGIT_ERROR = 1e-4  # that another order of additions may cause, as a part of the largest logit, which counts ≥ 1


@torch.no_grad()
def readable_model(model: nn.Module, x: Tensor, flavour: str) -> onnx.ModelProto:
    """Returns a graph of standard operators for one sample that computes the logits.

    A ``Net`` becomes what ``verifier_model`` writes.  PyTorch's exporter writes any other module.  The graph is
    compared with the module at x in onnxruntime.

    Args:
        model: float32, in evaluation mode, on the CPU; maps (1, *) to (1, classes).
        x: (1, *) float32.
        flavour: of distances in a ``Net``, as for ``verifier_model``.

    Raises:
        TypeError: a layer cannot be written.
        ValueError: as ``verifier_model``; or the graph computes other logits.
    """
    graph = verifier_model(model, flavour) if isinstance(model, Net) else _exported(model, x)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = model(x.clone()).numpy()
    allowed = LOGIT_ERROR * max(1.0, float(np.abs(expected).max()))
    if found.shape != expected.shape or not np.abs(found - expected).max() <= allowed:
        raise ValueError("the ONNX graph of the net computes other logits than the net")
    return graph


def _exported(model: nn.Module, x: Tensor) -> onnx.ModelProto:
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the exporter tells which packages it looked for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(model, (x,), dynamo=True, verbose=False).model_proto
    except torch.onnx.OnnxExporterError as error:
        cause = error
        while cause.__cause__ is not None:  # the outermost error does not name the operator
            cause = cause.__cause__
        reason = str(cause).split(". ")[0].splitlines()[0]
        raise TypeError(f"the model cannot be written as standard ONNX operators: {reason}") from error
    finally:
        logging.disable(disabled)

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
    if not computes(graph, x, model(x.clone())):
        raise ValueError("the ONNX graph of the net computes other logits than the net")
    return graph


def computes(graph: onnx.ModelProto, x: Tensor, logits: Tensor) -> bool:
    """Returns whether the graph computes the logits (N, classes) of x (N, *) in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it raises what it would log
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, ["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return found.shape == logits.shape and bool(np.abs(found - logits.detach().numpy()).max() <= allowed_error(logits))


def allowed_error(logits: Tensor) -> float:
    """Returns how far from these logits another program may find them."""
    return LOGIT_ERROR * max(1.0, float(logits.abs().max()))


def other_sample(x: Tensor) -> Tensor:
    """Returns an input of the shape of x in which no coordinate is 0 by chance."""
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 0.5 + x


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

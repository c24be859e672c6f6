"""Marabou as a complete verifier of nets that are piecewise linear."""

import numpy as np
import torch
from torch import Tensor, nn

from onnx_export.verifiers import query_marabou
from onnx_export.verifiers.child import Child, Ended
from onnx_export.verifiers.marabou import import_marabou
from onnx_export.verifiers.readable import LOGIT_ERROR, other_sample, readable_model

from .question import Answer, Asked, answer_of, refused

PROGRAM = query_marabou.__file__
FLAVOUR = "maxpool"  # Marabou is much faster with it
READING = 120.0  # seconds to read a net


def installed() -> None:
    """Raises ImportError with a sentence that says how to install it."""
    import_marabou()


@torch.no_grad()
def prepared(model: nn.Module, x: Tensor, child: Child) -> dict:
    """Returns the net as a file, and its logits at two points, at which Marabou must find the same.

    Raises:
        TypeError, ValueError: the net cannot be written, or Marabou does not read it as it is.
    """
    graph = readable_model(model, x, FLAVOUR)
    points = [(point.double().numpy().ravel(), model(point).double().numpy().ravel()) for point in (x, other_sample(x))]
    problem = {"model": graph.SerializeToString(), "points": points, "tolerance": LOGIT_ERROR}
    try:
        child.ask(problem, READING)
    except Ended as ended:
        raise refused(ended) from ended
    child.close()
    return problem | {"points": points[:1]}


def question(problem: dict, asked: Asked) -> dict:
    low, high = asked.box
    return {**problem, "low": low, "high": high, "label": asked.label, "seconds": asked.seconds}


def answer(found: tuple[str, np.ndarray | None], asked: Asked) -> Answer:
    return answer_of(*found)

"""Reads ONNX files of anyone as modules of PyTorch, for bounds."""

import os

from onnx import ModelProto
from torch import nn

from ..files.load import load
from ..functions.domain import LINF
from ..functions.library import called
from .fold import check_sizes
from .library import LAST_OPSET, LIBRARY, to_torch, unknown_operators, version
from .plain_form import lowered, plain_form
from .recompute import read_back


def read_model(path: str | os.PathLike) -> nn.Module:
    """Returns the net in an ONNX file, as ``module_of`` does.

    Whether the module computes what onnxruntime computes must be tested before anything is claimed of it:
    ``running.agreement`` does this.

    Raises:
        FileNotFoundError, ValueError: as ``files.load.load`` and ``module_of``; the message names the file.
        ImportError: as ``module_of``.
    """
    model = load(path)
    try:
        return module_of(model)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def module_of(model: ModelProto) -> nn.Module:
    """Returns the net of a model as a float32 module in evaluation mode, on the CPU.

    A model with operators of the domain ``linf`` is read as a ``Net``, by ``read_back``.  Other models are read by
    onnx2torch, after ``plain_form``.  The module takes any batch, also if the model fixes a batch of 1.

    Args:
        model: whole (``files.load.check_model``), with its weights.

    Raises:
        ValueError: as ``plain_form``; onnx2torch does not know an operator (the message names them all), or does not
            convert the graph; or a constant would take far more memory than the model.
        ImportError: onnx2torch is not installed; the message says how to install it.
    """
    if uses_linf(model):
        return read_back(model)
    release = version()
    check_sizes(model)
    plain = plain_form(model)
    if unknown_operators(plain):
        plain = lowered(plain, LAST_OPSET)
    if unknown := unknown_operators(plain):
        raise ValueError(
            f"{LIBRARY} {release} does not know the operator{'s' * (len(unknown) > 1)} {', '.join(unknown)}"
        )
    return to_torch(plain)


def uses_linf(model: ModelProto) -> bool:
    """Whether a model has operators of this package."""
    return any(f.domain == LINF.domain for f in model.functions) or next(called(model.graph.node), None) is not None

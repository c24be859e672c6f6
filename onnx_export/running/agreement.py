"""Compares a net that was read from an ONNX file with onnxruntime, before anything is claimed of the net."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto
from torch import Tensor, nn

from ..files.load import MOST_BYTES
from ..reading.net import input_of, logits_of
from ..writing.settings import PIXELS
from .session import LOAD_ERRORS

RANDOM = 64  # random inputs, and at most as many given ones
SINGLE = 8  # of each, how many also run in a batch of their own
LEVELS = PIXELS["byte"][1]  # of a pixel in an input of bytes
# The difference that is allowed: a multiple of what float32 rounding does to the net's own logits, found in float64.
FACTOR = 32
LEAST = 2.0**-20  # relative to the largest logit: each logit is rounded, and a net may happen to round little


class Disagreement(ValueError):
    """onnxruntime and PyTorch compute different functions from a file."""


@dataclass(frozen=True)
class Agreement:
    """How far two runtimes are from each other.

    difference: the largest one of two logits.  allowed: what float32 rounding explains.  inputs: how many were
    compared.
    """

    difference: float
    allowed: float
    inputs: int

    def __str__(self) -> str:
        return f"onnxruntime {onnxruntime.__version__} agreed within {self.difference:.2g} on {self.inputs} inputs"


@torch.no_grad()
def agreement(model: ModelProto, net: nn.Module, samples: Tensor, seed: int = 0) -> Agreement:
    """Runs random inputs in [0, 1] and some of the samples through both, one by one and in batches.

    Args:
        model: with its weights; onnxruntime runs it on the CPU.
        net: on the CPU, what was read from the model.
        samples: (N, *) float32 in [0, 1]; the first 64 are compared.
        seed: of the random inputs.

    Raises:
        Disagreement: two logits differ by more than rounding explains, or are not finite.  The message has the largest
            difference.
        ValueError: the samples have another shape than the input; or onnxruntime or PyTorch cannot run the model.
    """
    name, (batch, *sizes), of_bytes = input_of(model)
    if list(samples.shape[1:]) != sizes:
        raise ValueError(f"the net takes samples of shape {tuple(sizes)}, and the data have {tuple(samples.shape[1:])}")
    x = torch.rand(RANDOM, *sizes, generator=torch.Generator().manual_seed(seed))
    x = torch.cat([x, samples[:RANDOM].float().cpu()])
    if of_bytes:
        x = (x * LEVELS).round() / LEVELS
    single = [*range(SINGLE), *range(RANDOM, min(RANDOM + SINGLE, len(x)))]
    ours = _in_torch(net, x)
    pairs = [(_in_torch(net, x[i : i + 1]), ours[i : i + 1]) for i in single]
    run = _session(model, name, of_bytes)
    theirs = run(x, [1] * len(x) if batch else [len(x)])
    pairs.append((theirs, ours))
    if not batch:
        pairs.append((run(x[single], [1] * len(single)), ours[single]))
    if any(a.shape != b.shape for a, b in pairs):
        raise Disagreement(f"onnxruntime gives outputs of shape {tuple(theirs.shape)}, PyTorch {tuple(ours.shape)}")
    found = Agreement(max((a - b).abs().max().item() for a, b in pairs), _allowed(net, x, ours), len(x))
    finite = all(a.isfinite().all() for pair in pairs for a in pair)
    if not (finite and found.difference <= found.allowed):
        size = f"differ by up to {found.difference:.3g}, and rounding explains {found.allowed:.3g}"
        raise Disagreement(
            f"onnxruntime and the PyTorch form of the file do not agree: logits {size if finite else 'are not finite'}"
        )
    return found


def _in_torch(net: nn.Module, x: Tensor) -> Tensor:
    try:
        found = net(x.clone())
    except Exception as error:  # a forward of a converted module may raise anything
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"its PyTorch form cannot run on {len(x)} samples: {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(found, Tensor):
        raise ValueError(f"its PyTorch form returns a {type(found).__name__}, and must return one tensor")
    return found


def _session(model: ModelProto, name: str, of_bytes: bool) -> Callable[[Tensor, list[int]], Tensor]:
    """A function that runs inputs in batches of the given sizes."""
    if model.ByteSize() >= MOST_BYTES:
        raise ValueError("it has more than 2 GiB of weights, which onnxruntime does not take at once")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with _one_sentence():
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(x: Tensor, batches: list[int]) -> Tensor:
        parts = [(part * LEVELS).round().byte() if of_bytes else part for part in x.split(batches)]
        with _one_sentence():
            found = [session.run([logits_of(model)], {name: part.contiguous().numpy()})[0] for part in parts]
        return torch.from_numpy(np.concatenate(found))

    return run


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    try:
        yield
    except LOAD_ERRORS as error:
        raise ValueError(f"onnxruntime cannot run it: {' '.join(str(error).split())[:300]}") from error


def _allowed(net: nn.Module, x: Tensor, logits: Tensor) -> float:
    """How far float32 rounding may move logits: measured on the net itself, in float64, where it runs there."""
    scale = max(1.0, logits.abs().max().item())
    try:
        exact = copy.deepcopy(net).double()(x.double())
        rounding = (exact - logits).abs().max().item()
    except (RuntimeError, TypeError, ValueError):  # a net may hold a constant of float32
        rounding = 0.0
    return max(FACTOR * rounding, LEAST * scale)

"""Nets that the user gives: built by a Python file and filled with weights, or read from an ONNX file."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from linf_plugin import Net
from linf_plugin.arguments import check_labels, check_logits
from linf_plugin.files import digest
from linf_plugin.model_file import load_model
from linf_plugin.weights import fill, read_weights


@dataclass(frozen=True)
class GivenNet:
    """A net that the harness did not train.

    model: in evaluation mode, on the CPU.  label: its name in tables, unless the user gives one.  source: names and
    digests of its files, and the digest of its tensors, as plain data; equal sources are the same net.  about: the
    function that certificates of the model are about, for a sentence.  remark: the rest of that sentence.
    """

    model: nn.Module
    label: str
    source: dict
    about: str
    remark: str = ""

    @property
    def parameters(self) -> int:
        """How many numbers the net has: parameters, and constants that an ONNX file does not call parameters."""
        constants = [a for name, a in self.model.named_buffers() if "initializer" in name and a.is_floating_point()]
        return sum(a.numel() for a in (*self.model.parameters(), *constants))

    @property
    def pairs_per_sample(self) -> int | None:
        return self.model.pairs_per_sample() if isinstance(self.model, Net) else None

    def sentence(self, sound: bool) -> str:
        """Returns which function the certificates are about."""
        rounding = "with its rounding in float32" if sound else "in exact arithmetic, rounding not covered"
        return f"{self.about}, {rounding}{self.remark}"


def from_python(place: str, weights: Path | None) -> GivenNet:
    """Builds a net by a function of a Python file, and fills it with the weights in a file.

    Args:
        place: FILE.py:FUNCTION, as ``linf_plugin.model_file.load_model`` takes it.
        weights: as ``linf_plugin.weights.read_weights`` takes it; None keeps those that the function gives.

    Raises:
        FileNotFoundError, TypeError, ValueError: as ``load_model``, ``read_weights`` and ``fill``.
    """
    given = None if weights is None else read_weights(weights)
    model = load_model(place)
    if given is not None:
        fill(model, given, weights)
    file, _, function = place.rpartition(":")
    source = {
        "model": f"{Path(file).name}:{function}",
        "code_sha256": _sha256(Path(file)),
        "state_sha256": _state_sha256(model),
    }
    if weights is not None:
        source["weights"] = weights.name
    filled = "" if weights is None else f" with the weights in {weights.name}"
    return GivenNet(model, f"{Path(file).stem}:{function}", source, f"the PyTorch program {source['model']}{filled}")


def from_onnx(path: Path, samples: Tensor) -> GivenNet:
    """Reads a net from an ONNX file, and compares it with onnxruntime.

    Args:
        path: of the file.
        samples: (N, *) some of the data.

    Raises:
        FileNotFoundError, ValueError, ImportError: as ``onnx_export.reading.ordinary`` and
            ``onnx_export.running.agreement``.  The message names the file.
    """
    from onnx_export.files.load import load
    from onnx_export.reading.ordinary import module_of
    from onnx_export.running.agreement import agreement

    onnx_model = load(path)
    try:
        model = module_of(onnx_model)
        found = agreement(onnx_model, model, samples)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    source = {"onnx": path.name, "file_sha256": _sha256(path), "state_sha256": _state_sha256(model)}
    return GivenNet(model, path.name, source, f"the PyTorch program read from {path.name}", f"; {found}")


def check_runs(net: GivenNet, x: Tensor, y: Tensor) -> None:
    """Runs the net on one sample.  Raises TypeError or ValueError if it does not give one logit for each class."""
    if len(x) == 0:
        raise ValueError("the data have no test samples")
    try:
        with torch.no_grad():
            logits = net.model(x[:1].clone())
    except Exception as error:  # the user's own code may raise anything
        reason = " ".join(str(error).split())[:300]
        what = f"{net.label} cannot run on a sample of shape {tuple(x.shape[1:])}"
        raise ValueError(f"{what}: {type(error).__name__}: {reason}") from error
    check_labels(y, x, check_logits(logits, 1))


def _sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, hashlib.sha256).hexdigest()


def _state_sha256(model: nn.Module) -> str:
    return digest({name: a.cpu() for name, a in model.state_dict().items() if isinstance(a, Tensor)})

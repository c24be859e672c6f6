"""Compares an exported file with its net in PyTorch on test images."""

from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from linf_plugin.certificates.margin import pairwise_radius
from linf_plugin.certificates.pairs import pair_bounds
from linf_plugin.float32.reach import check_program, reach
from linf_plugin.graphs.capture import capture
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.layers.sort import SortDistLinear
from linf_plugin.models.materialised import materialise
from linf_plugin.models.net import Net

from ..reading.recompute import norm_of
from ..writing.traced.folding import folded
from ..writing.traced.shapes import shapes_of
from .accuracy import BATCH, levels_of, run_all

# The error of a logit that is allowed, relative to the largest logit (at least 1).  A linear layer adds many products,
# in an order that each runtime chooses, and terms that are larger than the sum may cancel.  A sorted sum adds some.
TOLERANCE = 1e-6
LINEAR_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Comparison:
    """The results of onnxruntime and of PyTorch on the same N images.

    Attributes:
        logits, torch_logits: (N, classes), by onnxruntime and by PyTorch.
        radii: (N,), by onnxruntime; None where the file has no radii.
        bounds: of the difference of two logits, per unit of the input of the file, as ``pairwise_radius`` takes them;
            None where the file has no radii.
        allowed: by how much two logits may differ, (N, classes) or one number.
        norm: that of the radii, a key of ``settings.RADIUS_NORMS``.
    """

    logits: np.ndarray
    radii: np.ndarray | None
    torch_logits: np.ndarray
    bounds: Tensor | None
    allowed: np.ndarray | float
    norm: str = "linf"

    @property
    def bit_equal(self) -> bool:
        return np.array_equal(self.logits.view(np.uint32), self.torch_logits.view(np.uint32))

    @property
    def logit_error(self) -> float:
        """The largest absolute difference of two logits; NaN if a logit is NaN."""
        return float(np.abs(self.logits - self.torch_logits).max())

    @property
    def allowed_error(self) -> float:
        return float(np.max(self.allowed))

    @property
    def right(self) -> bool:
        """Whether every logit differs by at most what is allowed."""
        return bool((np.abs(self.logits - self.torch_logits) <= self.allowed).all())

    @property
    def differing_predictions(self) -> int:
        return int((self.logits.argmax(1) != self.torch_logits.argmax(1)).sum())

    @property
    def radius_error(self) -> float:
        """The largest absolute difference from the radius of the PyTorch logits without rounding."""
        return float(np.abs(self.radii - self._radii(self.torch_logits)).max())

    @property
    def overstated_radii(self) -> int:
        """How many radii are above what the logits of the file certify."""
        return 0 if self.radii is None else int((self.radii > self._radii(self.logits)).sum())

    @property
    def failures(self) -> list[str]:
        """Everything that is wrong, in words; empty where nothing is."""
        found = []
        if not self.right:
            found.append(f"logits differ by {self.logit_error:.3g}, more than {self.allowed_error:.3g}")
        if self.differing_predictions:
            found.append(f"{self.differing_predictions} predictions differ")
        if self.overstated_radii:
            found.append(f"{self.overstated_radii} radii are above what the logits certify")
        return found

    def _radii(self, logits: np.ndarray) -> np.ndarray:
        return pairwise_radius(torch.from_numpy(logits), self.bounds).numpy()


@torch.no_grad()
def compare(session: onnxruntime.InferenceSession, model: nn.Module, images: Tensor) -> Comparison:
    """Runs images through both, in batches, with a progress bar on a terminal.

    Args:
        session: of the file.
        model: the net of the checkpoint, or the module from which the file was made.
        images: (N ≥ 1, C, H, W) float32 in [0, 1].

    Raises:
        ValueError: ``export`` did not write the file, the images do not fit it, onnxruntime cannot run it, or the norm
            of its radii is unknown.
        TypeError, RuntimeError: as ``check_program``, for a module that is no ``Net``.
    """
    outputs = [output.name for output in session.get_outputs()]
    if "logits" not in outputs:
        raise ValueError(f"the ONNX file must have an output logits; it has {', '.join(outputs)}")
    levels = levels_of(session)
    if levels > 1:  # as the file divides bytes
        images = (images * levels).round() / levels
    found = run_all(session, images)
    if isinstance(model, Net) and tuple(images.shape[1:]) != model.input_shape:
        raise ValueError(f"the checkpoint takes images of shape {model.input_shape}, got {tuple(images.shape[1:])}")
    if isinstance(model, Net):
        program, in_file, of = model, materialise(model), "the checkpoint"
    else:
        program, of = check_program(model, images[:1]) or capture(model, images[:1]), "the model"
        in_file = folded(program, shapes_of(program, tuple(images.shape[1:])))
    logits = torch.cat([model(x) for x in images.split(BATCH)])
    radii = found.get("certified_radius")
    if found["logits"].shape != logits.shape or (radii is not None and radii.shape != logits.shape[:1]):
        raise ValueError(f"the ONNX file gives logits of shape {found['logits'].shape}, {of} {tuple(logits.shape)}")
    norm = norm_of(session.get_modelmeta().custom_metadata_map)
    bounds = None if radii is None else _bounds(in_file, norm) / levels
    return Comparison(found["logits"], radii, logits.numpy(), bounds, _allowed(program, images, logits).numpy(), norm)


def _bounds(net: nn.Module, norm: str) -> Tensor:
    """The bounds by which a file with a radius in this norm divides, without rounding."""
    if norm == "linf":
        return torch.full((1, 1), 2 * lipschitz_bound(net, norm), dtype=torch.float64)
    return pair_bounds(net, norm)


def _allowed(program: nn.Module, images: Tensor, logits: Tensor) -> Tensor:
    """By how much logits may differ, (N, classes).

    Logits of a ``Net`` may differ by a part of the largest one.  Each logit of a traced net is off by at most the error
    bound of its operations, in both runtimes.
    """
    if not isinstance(program, Net):
        errors = [reach(program, x, x).error for x in images.double().split(BATCH)]
        return 2 * torch.cat(errors)
    sums = any(isinstance(layer, (nn.Linear, nn.Conv2d, SortDistLinear)) for layer in program)
    tolerance = LINEAR_TOLERANCE if sums else TOLERANCE
    return torch.full_like(logits, tolerance * max(1.0, float(logits.abs().max())), dtype=torch.float64)

"""Whether an exported file computes what its checkpoint computes."""

from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from linf_plugin.certificates.margin import certified_radius
from linf_plugin.layers.sort import SortDistLinear
from linf_plugin.models.net import Net

from .accuracy import BATCH, levels_of, run_all

# Of a logit, relative to the largest one (at least 1).  A linear layer adds many products, of which terms
# larger than the result may cancel, in an order that each runtime chooses; a sorted sum adds some.
TOLERANCE = 1e-6
LINEAR_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Comparison:
    """ONNX against PyTorch on the same images, N of them."""

    logits: np.ndarray  # (N, classes), by onnxruntime
    radii: np.ndarray | None  # (N,), by onnxruntime; None where the file has none
    torch_logits: np.ndarray  # (N, classes)
    lipschitz: float  # logits per unit of the file's input
    tolerance: float

    @property
    def bit_equal(self) -> bool:
        return np.array_equal(self.logits.view(np.uint32), self.torch_logits.view(np.uint32))

    @property
    def logit_error(self) -> float:
        """Largest absolute difference of two logits; NaN where one of them is."""
        return float(np.abs(self.logits - self.torch_logits).max())

    @property
    def allowed_error(self) -> float:
        return self.tolerance * max(1.0, float(np.abs(self.torch_logits).max()))

    @property
    def differing_predictions(self) -> int:
        return int((self.logits.argmax(1) != self.torch_logits.argmax(1)).sum())

    @property
    def radius_error(self) -> float:
        """Largest absolute difference from the radius of the PyTorch logits, rounding not subtracted."""
        return float(np.abs(self.radii - self._radii(self.torch_logits)).max())

    @property
    def overstated_radii(self) -> int:
        """Radii above what the file's own logits certify."""
        return 0 if self.radii is None else int((self.radii > self._radii(self.logits)).sum())

    @property
    def failures(self) -> list[str]:
        """What is wrong, in words; nothing where all is well."""
        found = []
        if not self.logit_error <= self.allowed_error:
            found.append(f"logits differ by {self.logit_error:.3g}, more than {self.allowed_error:.3g}")
        if self.differing_predictions:
            found.append(f"{self.differing_predictions} predictions differ")
        if self.overstated_radii:
            found.append(f"{self.overstated_radii} radii are above what the logits certify")
        return found

    def _radii(self, logits: np.ndarray) -> np.ndarray:
        return certified_radius(torch.from_numpy(logits), lipschitz=self.lipschitz).numpy()


@torch.no_grad()
def compare(session: onnxruntime.InferenceSession, model: Net, images: Tensor) -> Comparison:
    """Runs images (N ≥ 1, C, H, W) through both, in batches, with a progress bar on a terminal.

    Raises:
        ValueError: the file is not one that ``export`` wrote, the images do not fit it, or onnxruntime cannot run it.
    """
    outputs = [output.name for output in session.get_outputs()]
    if "logits" not in outputs:
        raise ValueError(f"the ONNX file must have an output logits; it has {', '.join(outputs)}")
    levels = levels_of(session)
    if levels > 1:  # what the file makes of bytes
        images = (images * levels).round() / levels
    found = run_all(session, images)
    if tuple(images.shape[1:]) != model.input_shape:
        raise ValueError(f"the checkpoint takes images of shape {model.input_shape}, got {tuple(images.shape[1:])}")
    logits = torch.cat([model(x) for x in images.split(BATCH)]).numpy()
    radii = found.get("certified_radius")
    if found["logits"].shape != logits.shape or radii is not None and radii.shape != logits.shape[:1]:
        raise ValueError(f"the ONNX file gives logits of shape {found['logits'].shape}, the checkpoint {logits.shape}")
    sums = any(isinstance(layer, (nn.Linear, nn.Conv2d, SortDistLinear)) for layer in model)
    tolerance = LINEAR_TOLERANCE if sums else TOLERANCE
    return Comparison(found["logits"], radii, logits, model.lipschitz / levels, tolerance)

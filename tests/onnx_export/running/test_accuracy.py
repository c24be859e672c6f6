"""What counts as right, and what as certified."""

import numpy as np
import torch

from onnx_export.running.accuracy import accuracy_of
from onnx_export.writing.metadata import Accuracy


def test_accuracies():
    """A radius of exactly ε does not count; nor does one of a wrong prediction; a certificate at ε does."""
    logits = np.float32([[1, 0], [1, 0], [1, 0], [0, 1]])
    radii = np.float32([0.25, np.nextafter(np.float32(0.25), 1), 1, 1])
    labels, outputs = torch.tensor([0, 0, 1, 1]), {"logits": logits, "certified_radius": radii}
    assert accuracy_of(outputs, labels, 0.25) == Accuracy(4, 3, 2, "lipschitz")
    assert accuracy_of(outputs, labels, None) == Accuracy(4, 3)
    assert accuracy_of({"logits": logits}, labels, 0.25) == Accuracy(4, 3)
    assert accuracy_of(outputs | {"certified_radius": radii * 255}, labels, 0.25, 255) == Accuracy(4, 3, 2, "lipschitz")
    outputs["certified"] = np.array([True, False, True, False])
    assert accuracy_of(outputs, labels, 0.25) == Accuracy(4, 3, 3, "interval")

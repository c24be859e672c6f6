"""What ``compare`` finds in files that are right, and in files that are not."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from onnx_export.exporting import export
from onnx_export.files.seal import props_of, seal
from onnx_export.running.accuracy import BATCH
from onnx_export.running.compare import Comparison, compare
from onnx_export.running.session import session
from onnx_export.writing.certificate import radius_constants


def changed(made, name: str, change, path):
    """The ONNX file with one of its initialisers changed, sealed again."""
    model = onnx.load(made.onnx)
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
    seal(model, props_of(model))
    onnx.save(model, path)
    return session(path, "cpu")


def test_right_file(made):
    """Every image, in order, over several batches."""
    images = torch.rand(2 * BATCH + 3, 1, 8, 8)
    result = compare(session(made.onnx, "cpu"), made.net, images)
    assert result.bit_equal and result.logit_error == 0 and result.failures == []
    assert np.array_equal(result.torch_logits, made.net(images).detach().numpy())
    constants = radius_constants(made.net)
    subtracted = constants.slack / (2 * constants.lipschitz)
    assert 0 < result.radius_error < 1.01 * subtracted + 1e-6 and len(result.radii) == len(images)


def test_wrong_weight(made, tmp_path):
    s = changed(made, "2.weight", lambda w: w + np.float32(0.5), tmp_path / "w.onnx")
    result = compare(s, made.net, torch.rand(50, 1, 8, 8))
    assert not result.bit_equal and result.differing_predictions
    assert any("logits differ by" in f for f in result.failures) and len(result.failures) >= 2


def test_overstated_radius(made, tmp_path):
    s = changed(made, "lipschitz", lambda bound: bound * 0.9, tmp_path / "l.onnx")
    result = compare(s, made.net, torch.rand(50, 1, 8, 8))
    assert result.bit_equal and result.failures == ["50 radii are above what the logits certify"]


def test_understated_radius_is_no_failure(made, tmp_path):
    s = changed(made, "lipschitz", lambda bound: bound * 1.5, tmp_path / "l.onnx")
    result = compare(s, made.net, torch.rand(50, 1, 8, 8))
    assert result.failures == [] and result.radius_error > 1e-3


@pytest.mark.parametrize("name", ["relu-mlp", "sortnet-mlp"])
def test_layers_that_add_have_room(small_net, tmp_path, name):
    net = small_net(name, width=16, depth=2, **({"rho": 0.5} if name == "sortnet-mlp" else {}))
    export(net, tmp_path / "net.onnx")
    result = compare(session(tmp_path / "net.onnx", "cpu"), net, torch.rand(20, 1, 8, 8))
    largest = float(np.abs(result.torch_logits).max())
    assert result.failures == [] and result.allowed_error == 1e-5 * max(1, largest)


def test_other_images(made):
    with pytest.raises(ValueError, match=r"x must have shape \(batch, 1, 8, 8\)"):
        compare(session(made.onnx, "cpu"), made.net, torch.rand(2, 1, 9, 8))


@pytest.mark.parametrize("settings", [{"certificate": "none"}, {"pixels": "byte"}], ids=["no-radius", "bytes"])
def test_other_files(made, tmp_path, settings):
    export(made.net, tmp_path / "net.onnx", **settings)
    result = compare(session(tmp_path / "net.onnx", "cpu"), made.net, torch.rand(20, 1, 8, 8))
    assert result.bit_equal and result.failures == []
    assert (result.radii is None) == ("certificate" in settings)


def test_nan_is_a_failure():
    logits = np.float32([[1, 0], [np.nan, 0]])
    result = Comparison(logits, np.zeros(2, np.float32), np.float32([[1, 0], [1, 0]]), torch.ones(1, 1), 1e-6)
    assert any("logits differ by nan" in f for f in result.failures)

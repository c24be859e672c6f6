"""The file that ``export`` writes: what it computes, what it says of itself, how it is written."""

import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

import linf_plugin
from onnx_export.export import export, file_sha256, properties
from onnx_export.session import run, session

EXPORT = importlib.import_module("onnx_export.export")  # the package has a function of that name

COLOUR = {"shape": (3, 8, 8), "mean": (0.3, 0.2, 0.1), "std": 0.2}

NETS = {  # architecture, arguments, exponent, whether every logit is exact
    "mlp": ("linf-mlp", {"width": 16, "depth": 3}, math.inf, True),
    "conv": ("linf-conv", {"channels": (6, 8), "strides": (1, 2), "width": 16} | COLOUR, math.inf, True),
    "head": ("linf-mlp-head", {"width": 16, "depth": 2, "hidden": 8}, math.inf, False),
    "crop": ("linf-mlp", {"width": 16, "depth": 2, "crop": 3} | COLOUR, math.inf, True),
    "clip": ("linf-mlp", {"width": 16, "depth": 2, "clip": 0.3}, math.inf, True),
    "p=1": ("linf-mlp", {"width": 16, "depth": 3}, 1.0, False),
    "p=2": ("linf-mlp", {"width": 16, "depth": 3}, 2.0, False),
    "p=3.5": ("linf-conv", {"channels": (6,), "strides": (2,), "width": 16} | COLOUR, 3.5, False),
    "p=8": ("linf-mlp", {"width": 16, "depth": 3}, 8.0, False),
    "p=100": ("linf-mlp", {"width": 16, "depth": 3}, 100.0, False),
    "p=1000": ("linf-mlp", {"width": 16, "depth": 3}, 1000.0, False),
    "sortnet": ("sortnet-mlp", {"width": 16, "depth": 3, "rho": 0.6, "k": 5}, math.inf, False),
    "sortnet-rho-1": ("sortnet-mlp", {"width": 16, "depth": 3, "rho": 1.0}, math.inf, True),
    "relu-mlp": ("relu-mlp", {"width": 16, "depth": 3}, math.inf, False),
    "relu-conv": ("relu-conv", {"channels": (6, 8), "strides": (1, 2), "width": 16} | COLOUR, math.inf, False),
}


@pytest.fixture(scope="module", params=NETS.values(), ids=NETS)
def case(request, small_net, tmp_path_factory):
    """(net, path of its file, whether its logits are exact)"""
    name, arguments, p, exact = request.param
    net = small_net(name, **arguments)
    linf_plugin.set_p(net, p)
    path = tmp_path_factory.mktemp("nets") / "net.onnx"
    export(net, path)
    return net, path, exact


@torch.no_grad()
def test_outputs(case):
    """Batches of other sizes than the traced one; never a radius above that of the logits."""
    net, path, exact = case
    s = session(path, "cpu")
    assert [(o.name, o.shape) for o in s.get_outputs()] == [
        ("logits", ["batch", 10]), ("certified_radius", ["batch"]),
    ]
    for n in (1, 2, 7, 64):
        x = torch.rand(n, *net.input_shape)
        logits, radii = (torch.from_numpy(y) for y in run(s, x.numpy()))
        expected = net(x)
        assert logits.dtype == radii.dtype == torch.float32
        allowed = 0 if exact else 1e-6 * max(1, float(expected.abs().max()))
        torch.testing.assert_close(logits, expected, rtol=0, atol=allowed)
        bound = linf_plugin.certified_radius(logits, lipschitz=net.lipschitz)
        assert (radii <= bound).all()
        torch.testing.assert_close(radii, bound, rtol=3e-7, atol=0)


def test_not_finite_pixels_certify_nothing(case):
    """One image with one such pixel, whichever it is; the other images keep their radii."""
    net, path, _ = case
    s = session(path, "cpu")
    x = np.random.default_rng(0).random((7, *net.input_shape), np.float32)
    right = s.run(None, {"x": x})[1]
    x[0, 0, 0, 0], x[2, -1, -1, -1], x[4, 0, 3, 4] = math.nan, math.inf, -math.inf
    x[5] = math.nan
    radii = s.run(None, {"x": x})[1]
    assert (radii[[0, 2, 4, 5]] == 0).all()
    assert np.array_equal(radii[[1, 3, 6]], right[[1, 3, 6]]) and (right > 0).all()


def test_empty_batch(case):
    net, path, _ = case
    logits, radii = session(path, "cpu").run(None, {"x": np.zeros((0, *net.input_shape), np.float32)})
    assert logits.shape == (0, 10) and radii.shape == (0,)


def test_valid(case):
    """For the checker, for strict shape inference, and for ONNX's own evaluator."""
    net, path, _ = case
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    x = np.random.default_rng(0).random((3, *net.input_shape), np.float32)
    with np.errstate(divide="ignore"):  # log 0 is −∞, as it should
        theirs = ReferenceEvaluator(model).run(None, {"x": x})
    for y, z in zip(run(session(path, "cpu"), x), theirs, strict=True):
        np.testing.assert_allclose(y, z, rtol=0, atol=2e-6 * max(1, np.abs(z).max()))


def test_certificates_hold(made):
    """Perturbations just inside the radius, by corner and by gradient, keep the prediction."""
    s, steps = session(made.onnx, "cpu"), np.random.default_rng(0)
    x = torch.rand(64, 1, 8, 8)
    logits, radii = run(s, x.numpy())
    away = x.clone().requires_grad_()
    top = made.net(away).topk(2, 1).values
    (top[:, 1] - top[:, 0]).sum().backward()
    signs = [away.grad.sign().numpy()] + [steps.choice(np.float32([-1, 1]), x.shape) for _ in range(20)]
    for sign in signs:
        moved = x.numpy() + sign * np.float32(0.999) * radii[:, None, None, None]
        assert np.array_equal(run(s, moved)[0].argmax(1), logits.argmax(1))


def test_nodes_are_one_to_one(made):
    model = onnx.load(made.onnx)
    linf = [node.op_type for node in model.graph.node if node.domain == "linf"]
    assert linf == ["LinfDist"] * 3 + ["CertifiedRadius"]
    assert {o.domain: o.version for o in model.opset_import} == {"": 20, "linf": 1}


# What the file says.


def test_metadata(made):
    props = {p.key: p.value for p in onnx.load(made.onnx).metadata_props}
    assert json.loads(props.pop("versions"))["torch"] == torch.__version__
    assert props == {
        "norm": "linf", "radius_unit": "pixel value, images in [0, 1]", "lipschitz": repr(made.net.lipschitz),
        "dataset": "digits", "method": "linf-dist", "epsilon": "0.1", "seed": "3",
        "clean_accuracy": "0.25", "certified_accuracy_lipschitz": "0.0625", "certified_accuracy_best": "0.09375",
        "checkpoint": "../run/net.pt", "checkpoint_sha256": file_sha256(made.checkpoint),
    }
    assert session(made.onnx, "cpu").get_modelmeta().custom_metadata_map["epsilon"] == "0.1"


@pytest.mark.parametrize("metadata", [None, {}, {"results": {}}, {"epsilon": 0.1, "results": {"clean": 0.5}}])
def test_metadata_may_be_missing(small_net, metadata):
    props = properties(small_net(width=4, depth=2), metadata or {})
    assert {"norm", "radius_unit", "lipschitz", "versions"} <= props.keys()
    assert ("clean_accuracy" in props) == bool(metadata and metadata.get("results"))
    assert not any(key.startswith("certified") for key in props)


def test_no_absolute_path(made):
    content = made.onnx.read_bytes()
    source = Path(linf_plugin.__file__).parent
    for path in (made.onnx.parent.parent, source, sys.prefix, sys.base_prefix, Path.home()):
        assert str(path).encode() not in content
    assert b".py" not in content and b"site-packages" not in content


# How it is written.


def test_same_bytes_again(made, metadata):
    again = made.onnx.parent.with_name("again") / "net.onnx"
    export(made.net, str(again), metadata, str(made.checkpoint))
    assert again.read_bytes() == made.onnx.read_bytes()


def test_large_weights_go_beside_the_file(made, tmp_path, monkeypatch):
    monkeypatch.setattr(EXPORT, "EXTERNAL_BYTES", 0)
    path = tmp_path / "new" / "folder" / "net.onnx"
    export(made.net, path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["net.onnx", "net.onnx.data"]
    assert path.stat().st_size < made.onnx.stat().st_size
    x = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    for y, z in zip(run(session(path, "cpu"), x), run(session(made.onnx, "cpu"), x), strict=True):
        assert np.array_equal(y, z)


def test_failure_leaves_the_old_file(made, tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")

    def broken(*_, **__):
        raise onnx.checker.ValidationError("broken")

    monkeypatch.setattr(onnx.checker, "check_model", broken)
    with pytest.raises(onnx.checker.ValidationError):
        export(made.net, path)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_the_model_is_left_alone(small_net, tmp_path):
    net = small_net(width=4, depth=2)
    before = {name: a.clone() for name, a in net.state_dict().items()}
    export(net, tmp_path / "net.onnx")
    assert all(torch.equal(a, before[name]) for name, a in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters()) and not net.training


def _with_nan(net):
    net[2].weight.data[0, 0] = math.nan
    return net


@pytest.mark.parametrize("change, error, match", [
    (lambda net: net.train(), ValueError, "training mode"),
    (lambda net: net[3].train() and net, ValueError, "training mode"),
    (lambda net: net.double(), ValueError, "float32"),
    (_with_nan, ValueError, "2.weight of model contains NaN"),
    (lambda net: nn.Sequential(*net), TypeError, "Net"),
], ids=["training", "partly-training", "float64", "nan", "no-net"])
def test_refused(small_net, tmp_path, change, error, match):
    with pytest.raises(error, match=match):
        export(change(small_net(width=4, depth=2)), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_refused_bounds_and_classes(small_net, tmp_path):
    net = small_net("relu-mlp", width=4, depth=2)
    net[-1].weight.data.zero_()
    with pytest.raises(ValueError, match="lipschitz must be positive"):
        export(net, tmp_path / "net.onnx")
    with pytest.raises(ValueError, match="two classes"):
        export(small_net(width=4, depth=2, classes=1), tmp_path / "net.onnx")
    with pytest.raises(FileNotFoundError):
        export(small_net(width=4, depth=2), tmp_path / "net.onnx", checkpoint=tmp_path / "none.pt")
    assert not list(tmp_path.iterdir())

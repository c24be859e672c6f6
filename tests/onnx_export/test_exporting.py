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
from linf_plugin.datasets import load_dataset
from linf_plugin.layers.base import distance_layers
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.layers.shifts import MeanShift
from onnx_export.exporting import export, record
from onnx_export.files.seal import DIGEST, content_sha256
from onnx_export.running.session import run, session
from onnx_export.writing.certificate import radius_constants
from onnx_export.writing.metadata import Accuracy, file_sha256, told
from onnx_export.writing.record import fold_means, written

EXPORT = importlib.import_module("onnx_export.exporting")  # the package has a function of that name

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
    finite = p != math.inf
    export(net, path, certificate="none" if finite else "auto")
    return net, path, exact


@torch.no_grad()
def test_outputs(case):
    """Batches of other sizes than the traced one; never a radius above that of the logits."""
    net, path, exact = case
    s = session(path, "cpu")
    certified = all(layer.p == math.inf for layer in distance_layers(net))
    outputs = [("logits", ["batch", 10]), ("prediction", ["batch"]), ("certified_radius", ["batch"])]
    assert [(o.name, o.shape) for o in s.get_outputs()] == outputs[: 3 if certified else 2]
    for n in (1, 2, 7, 64):
        x = torch.rand(n, *net.input_shape)
        logits, prediction, *radii = (torch.from_numpy(y) for y in run(s, x.numpy()))
        expected = net(x)
        assert logits.dtype == torch.float32 and prediction.dtype == torch.int64
        assert torch.equal(prediction, logits.argmax(1))
        allowed = 0 if exact else 1e-6 * max(1, float(expected.abs().max()))
        torch.testing.assert_close(logits, expected, rtol=0, atol=allowed)
        if certified:
            _assert_radii(net, logits, *radii)


def _assert_radii(net, logits, radii):
    """Below what the logits certify, by what is subtracted for rounding and no more."""
    constants = radius_constants(fold_means(net))
    bound = linf_plugin.certified_radius(logits, lipschitz=lipschitz_bound(net, math.inf))
    assert radii.dtype == torch.float32 and (radii <= bound).all()
    margins = linf_plugin.margin(logits)
    expected = ((margins - constants.slack) / (2 * constants.lipschitz)).clamp(0, 1)
    torch.testing.assert_close(radii.double(), expected, rtol=4e-7, atol=0)


def test_not_finite_pixels_certify_nothing(case):
    """One image with one such pixel, whichever it is; the other images keep their radii."""
    net, path, _ = case
    s = session(path, "cpu")
    if "certified_radius" not in [o.name for o in s.get_outputs()]:
        return
    x = np.random.default_rng(0).random((7, *net.input_shape), np.float32)
    right = s.run(None, {"x": x})[2]
    x[0, 0, 0, 0], x[2, -1, -1, -1], x[4, 0, 3, 4] = math.nan, math.inf, -math.inf
    x[5] = math.nan
    radii = s.run(None, {"x": x})[2]
    assert (radii[[0, 2, 4, 5]] == 0).all()
    assert np.array_equal(radii[[1, 3, 6]], right[[1, 3, 6]])


def test_empty_batch(case):
    net, path, _ = case
    logits, *others = session(path, "cpu").run(None, {"x": np.zeros((0, *net.input_shape), np.float32)})
    assert logits.shape == (0, 10) and all(y.shape == (0,) for y in others)


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
        assert y.dtype == z.dtype
        np.testing.assert_allclose(y, z, rtol=0, atol=2e-6 * max(1, np.abs(z).max()))


def test_certificates_hold(made):
    """Perturbations just inside the radius, by corner and by gradient, keep the prediction."""
    s, steps = session(made.onnx, "cpu"), np.random.default_rng(0)
    x = torch.rand(64, 1, 8, 8)
    logits, _, radii = run(s, x.numpy())
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
    constants = radius_constants(fold_means(made.net))
    assert float(props.pop("lipschitz")) == constants.lipschitz >= lipschitz_bound(made.net, math.inf)
    assert float(props.pop("rounding_slack")) == constants.slack
    assert props.pop(DIGEST) == content_sha256(onnx.load(made.onnx))
    assert props.pop("net") == written(fold_means(made.net))
    assert props == {
        "file_format": "linf-export 2",
        "norm": "linf",
        "flavour": "function",
        "certificate": "lipschitz",
        "radius_unit": "pixel value, images in [0, 1]",
        **load_dataset("digits").identity,
        "method": "linf-dist",
        "recipe": "digits",
        "epsilon": "0.1",
        "seed": "3",
        "run_clean_accuracy": "0.25",
        "run_certified_accuracy_lipschitz": "0.0625",
        "run_certified_accuracy_best": "0.09375",
        "checkpoint": "../run/net.pt",
        "checkpoint_sha256": file_sha256(made.checkpoint),
    }
    assert session(made.onnx, "cpu").get_modelmeta().custom_metadata_map["epsilon"] == "0.1"


@pytest.mark.parametrize("metadata", [{}, {"results": {}}, {"epsilon": 0.1, "results": {"clean": 0.5}}])
def test_metadata_may_be_missing(metadata):
    props = told(metadata)
    assert ("run_clean_accuracy" in props) == bool(metadata.get("results"))
    assert "versions" in props and not any("certified" in key for key in props)


def test_accuracies_are_recorded(made, tmp_path):
    """In the metadata alone, in one move."""
    path = tmp_path / "net.onnx"
    path.write_bytes(made.onnx.read_bytes())
    record(path, Accuracy(40, 30, 10, "lipschitz"))
    before, after = ({p.key: p.value for p in onnx.load(p).metadata_props} for p in (made.onnx, path))
    assert after.pop(DIGEST) == content_sha256(onnx.load(path)) != before.pop(DIGEST)
    assert after == before | {
        "test_images": "40",
        "clean_accuracy": "0.75",
        "certified_accuracy": "0.25",
        "certified_accuracy_by": "lipschitz",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_a_file_that_was_changed_is_not_sealed_again(made, tmp_path):
    path, model = tmp_path / "net.onnx", onnx.load(made.onnx)
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    onnx.save(model, path)
    with pytest.raises(ValueError, match="was changed since it was written"):
        record(path, Accuracy(40, 30, 10, "lipschitz"))


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
    model = onnx.load(path, load_external_data=False)
    locations = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
    assert {p.name for p in path.parent.iterdir()} == {"net.onnx", *locations} and len(locations) == 1
    in_the_file = [t.name for t in model.graph.initializer if t.HasField("raw_data")]
    assert not in_the_file  # but for sizes, of which this net has none
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
        export(made.net, path, force=True)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_a_file_that_is_there_is_kept(made, tmp_path):
    path = tmp_path / "net of mine.onnx"
    path.write_bytes(b"old")
    with pytest.raises(FileExistsError, match="net of mine.onnx exists"):
        export(made.net, path)
    assert path.read_bytes() == b"old"
    export(made.net, path, force=True)
    assert session(path, "cpu").get_outputs()[2].name == "certified_radius"


@torch.no_grad()
def test_means_become_biases(small_net):
    """Where the distance has none; to the bit."""
    net = small_net(width=6, depth=3)
    folded, x = fold_means(net), torch.rand(9, 1, 8, 8)
    assert torch.equal(folded(x), net(x))
    assert not any(isinstance(layer, MeanShift) for layer in folded) and len(folded) == len(net) - 2
    biased = linf_plugin.Net(
        {
            "input_shape": [3],
            "layers": [["dist", {"in_features": 3, "out_features": 2}], ["mean_shift", {"num_features": 2}]],
        }
    ).eval()
    assert [type(layer) for layer in fold_means(biased)] == [type(layer) for layer in biased]


def test_inlined(made, small_net, tmp_path):
    """Standard operators alone, and the same bits."""
    path = tmp_path / "net.onnx"
    export(made.net, path, flavour="inlined")
    model = onnx.load(path)
    assert not model.functions and {o.domain for o in model.opset_import} == {""}
    assert all(node.domain == "" for node in model.graph.node)
    x = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    for y, z in zip(run(session(path, "cpu"), x), run(session(made.onnx, "cpu"), x), strict=True):
        assert np.array_equal(y, z)


@pytest.mark.parametrize("flavour", ["maxpool", "relu"])
def test_flavours_for_verifiers(made, tmp_path, flavour):
    path = tmp_path / "net.onnx"
    export(made.net, path, flavour=flavour)
    s, x = session(path, "cpu"), np.random.default_rng(0).random((1, 1, 8, 8), np.float32)
    assert [o.name for o in s.get_outputs()] == ["logits"]
    expected = made.net(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(run(s, x)[0], expected, rtol=0, atol=1e-6 * max(1, np.abs(expected).max()))
    assert {p.key: p.value for p in onnx.load(path).metadata_props}["flavour"] == flavour


@torch.no_grad()
def test_bytes(made, tmp_path):
    """Bit-equal to the net on k/255; radii are in grey levels, and a little smaller."""
    path = tmp_path / "net.onnx"
    export(made.net, path, pixels="byte")
    s = session(path, "cpu")
    k = np.random.default_rng(0).integers(0, 256, (200, 1, 8, 8), np.uint8)
    x = torch.from_numpy(k).float() / 255
    logits, prediction, radii = run(s, k)
    of_floats = run(session(made.onnx, "cpu"), x.numpy())
    assert np.array_equal(logits, of_floats[0]) and np.array_equal(logits, made.net(x).numpy())
    assert (radii <= 255 * of_floats[2].astype(np.float64)).all()
    np.testing.assert_allclose(radii / 255, of_floats[2], rtol=1e-6, atol=2e-7)
    with pytest.raises(TypeError, match="x must be uint8, got float32"):
        run(s, x.numpy())


def test_the_model_is_left_alone(small_net, tmp_path):
    net = small_net(width=4, depth=2)
    before = {name: a.clone() for name, a in net.state_dict().items()}
    export(net, tmp_path / "net.onnx")
    assert all(torch.equal(a, before[name]) for name, a in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters()) and not net.training


def _with_nan(net):
    net[2].weight.data[0, 0] = math.nan
    return net


def _with_gelu(net):
    net[3] = nn.GELU().eval()
    return net


def _with_hook(net):
    net[3].register_forward_hook(lambda module, args, y: 2 * y)
    return net


@pytest.mark.parametrize(
    "change, error, match",
    [
        (lambda net: net.train(), ValueError, "training mode"),
        (lambda net: net[3].train() and net, ValueError, "training mode"),
        (lambda net: net.double(), ValueError, "float32"),
        (_with_nan, ValueError, "2.weight of model contains NaN"),
        (lambda net: nn.Sequential(*net), ValueError, "a Sequential and no linf_plugin.Net.* give input_shape"),
        (lambda net: net.spec, TypeError, "torch.nn.Module, got dict"),
        (_with_gelu, TypeError, "layer 3 of model is a GELU, which cannot be exported"),
        (_with_hook, RuntimeError, "forward hooks"),
    ],
    ids=["training", "partly-training", "float64", "nan", "no-net", "no-module", "unknown-layer", "hook"],
)
def test_refused(small_net, tmp_path, change, error, match):
    with pytest.raises(error, match=match):
        export(change(small_net(width=4, depth=2)), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_verified_is_not_written(small_net, tmp_path, monkeypatch):
    monkeypatch.setattr(EXPORT, "contradictions", lambda model: ["node h0 (Sub) is not as it is written"])
    with pytest.raises(ValueError, match="the file could not be verified: node h0"):
        export(small_net(width=4, depth=2), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_forward_of_its_own(small_net, tmp_path):
    class Doubled(linf_plugin.Net):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(TypeError, match="Doubled, has a forward of its own"):
        export(Doubled(small_net(width=4, depth=2).spec).eval(), tmp_path / "net.onnx")


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"flavour": "gemm"}, "flavour must be one of function, inlined, maxpool, relu, got 'gemm'"),
        ({"certificate": "crown"}, "certificate must be one of auto, lipschitz, interval, none, got 'crown'"),
        ({"pixels": "grey"}, "pixels must be one of float, byte, got 'grey'"),
        ({"certificate": "interval"}, "an interval bound needs an epsilon"),
        ({"epsilon": 0.0}, r"epsilon must lie in \(0, 1\]"),
        ({"epsilon": 1.5}, r"epsilon must lie in \(0, 1\]"),
        ({"epsilon": math.nan}, r"epsilon must lie in \(0, 1\]"),
        ({"flavour": "relu", "pixels": "byte"}, "flavour relu is for verifiers: it has no certificates"),
        ({"flavour": "maxpool", "certificate": "lipschitz"}, "flavour maxpool is for verifiers"),
    ],
)
def test_refused_settings(small_net, tmp_path, settings, match):
    with pytest.raises(ValueError, match=match):
        export(small_net(width=4, depth=2), tmp_path / "net.onnx", **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("certificate", ["auto", "lipschitz", "interval"])
def test_finite_p_has_no_certificate(small_net, tmp_path, certificate):
    net = small_net(width=4, depth=2)
    linf_plugin.set_p(net, 8.0)
    with pytest.raises(ValueError, match="p = 8, and certificates are for p = ∞"):
        export(net, tmp_path / "net.onnx", certificate=certificate, epsilon=0.1)
    assert not list(tmp_path.iterdir())


def test_refused_bounds_and_classes(small_net, tmp_path):
    net = small_net("relu-mlp", width=4, depth=2)
    net[-1].weight.data.zero_()
    with pytest.raises(ValueError, match="Lipschitz bound of model must be positive"):
        export(net, tmp_path / "net.onnx")
    with pytest.raises(ValueError, match="two classes"):
        export(small_net(width=4, depth=2, classes=1), tmp_path / "net.onnx")
    with pytest.raises(FileNotFoundError):
        export(small_net(width=4, depth=2), tmp_path / "net.onnx", checkpoint=tmp_path / "none.pt")
    assert not list(tmp_path.iterdir())

"""Files whose certified radius is in ℓ2: written, run, verified; what contradicts itself; what is refused."""

import math
import re

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import linf_plugin as lp
from linf_plugin.certificates.margin import pairwise_radius
from linf_plugin.certificates.pairs import pair_bounds
from onnx_export.cli import main
from onnx_export.exporting import export, record
from onnx_export.files.load import load
from onnx_export.files.seal import FORMAT, props_of, seal
from onnx_export.reading.recompute import contradictions, norm_of, read_back
from onnx_export.reading.show import summary
from onnx_export.running.accuracy import measure
from onnx_export.running.compare import compare
from onnx_export.running.session import run, session
from onnx_export.running.verify import verify
from onnx_export.writing.settings import RADIUS_NORMS

IMAGES = (torch.rand(80, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 255).round() / 255
NETS = {
    "sll-mlp": ("sll-mlp", {"depth": 3, "hidden": 16}),
    "sll-conv": ("sll-conv", {"convs": 2, "dense": 1, "width": 6, "inner": 6, "hidden": 16}),
    "cpl-mlp": ("cpl-mlp", {"depth": 3, "hidden": 16}),
    "aol-conv": ("aol-conv", {"channels": (4, 6), "strides": (1, 2), "width": 12}),
}


@pytest.fixture(scope="module")
def trained(small_net):
    """``trained(name)``: a net as after training: its weights are no longer those that were drawn."""

    def make(name: str) -> lp.Net:
        architecture, arguments = NETS[name]
        net = small_net(architecture, **arguments)
        with torch.no_grad():
            for a in net.parameters():
                a.add_(0.1 * torch.randn_like(a))
        return lp.materialise(net)

    return make


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    """(net, file that records its accuracies at ε = .1); not to be changed."""
    net, path = trained("sll-mlp"), tmp_path_factory.mktemp("l2") / "net.onnx"
    export(net, path, {"epsilon": 0.1, "norm": "l2"}, norm="l2")
    record(path, measure(path, IMAGES, net(IMAGES).argmax(1), 0.1))
    return net, path


@pytest.fixture
def file(made, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(made[1].read_bytes())
    return path


def outputs(path, images=IMAGES, levels: int = 1) -> dict[str, torch.Tensor]:
    s = session(path, "cpu")
    x = images.numpy() if levels == 1 else np.rint(images.numpy() * levels).astype(np.uint8)
    names = [o.name for o in s.get_outputs()]
    return {name: torch.from_numpy(a) for name, a in zip(names, run(s, x))}


@torch.no_grad()
@pytest.mark.parametrize("name", NETS)
def test_the_radius_is_nearly_the_sound_radius_and_never_above_it(trained, tmp_path, name):
    net, path = trained(name), tmp_path / "net.onnx"
    export(net, path, norm="l2")
    found, sound = outputs(path), lp.sound_radius(net, IMAGES, norm="l2")
    radius = found["certified_radius"]
    assert (radius <= sound).all() and (radius >= 0).all() and (radius > 0).sum() > 60
    assert (sound - radius).max() < 4e-3 and sound.max() > 0.05
    assert (radius <= pairwise_radius(found["logits"], pair_bounds(net, 2))).all()
    y = net(IMAGES).argmax(1)
    assert torch.equal(found["prediction"], y)
    checked = verify(path, IMAGES, y, "cpu")
    assert checked.failures == [] and any("the radius is in ℓ2" in check for check in checked.checks)
    assert compare(session(path, "cpu"), net, IMAGES).failures == []


@torch.no_grad()
@pytest.mark.parametrize(
    "settings", [{"flavour": "inlined"}, {"pixels": "byte"}, {"certificate": "lipschitz", "epsilon": 2.5}], ids=str
)
def test_other_settings(trained, tmp_path, settings):
    net, path = trained("sll-conv"), tmp_path / "net.onnx"
    levels = 255 if "pixels" in settings else 1
    export(net, path, norm="l2", **settings)
    radius = outputs(path, levels=levels)["certified_radius"] / levels
    sound = lp.sound_radius(net, IMAGES, norm="l2")
    assert (radius <= sound).all() and (sound - radius).max() < 4e-3 and radius.max() > 0.05
    assert verify(path, IMAGES, net(IMAGES).argmax(1), "cpu").failures == []
    assert compare(session(path, "cpu"), net, IMAGES).failures == []


def test_no_perturbation_within_the_radius_changes_the_prediction(trained, tmp_path):
    """By gradients towards each other class, onto the sphere of the radius, in onnxruntime."""
    net, path = trained("sll-conv"), tmp_path / "net.onnx"
    export(net, path, norm="l2")
    found, broken, near = outputs(path), 0, 0
    for other in range(10):
        x = IMAGES.clone().requires_grad_()
        z = net(x)
        (z[:, other] - z.gather(1, found["prediction"][:, None])[:, 0]).sum().backward()
        step = x.grad / x.grad.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
        for times in (0.999, 6.0):
            moved = IMAGES + step * (times * found["certified_radius"]).view(-1, 1, 1, 1)
            changed = outputs(path, moved)["prediction"] != found["prediction"]
            broken, near = broken + int(changed.sum()) * (times < 1), near + int(changed.sum()) * (times > 1)
    assert broken == 0 and near > 0


@torch.no_grad()
def test_the_radius_of_a_linear_net_is_its_distance_to_the_border(tmp_path):
    torch.manual_seed(0)
    net = lp.Net({"input_shape": [6], "layers": [["linear", {"in_features": 6, "out_features": 3}]]}).eval()
    export(net, tmp_path / "net.onnx", norm="l2")
    x = torch.rand(200, 6)
    found, w = outputs(tmp_path / "net.onnx", x), net[0].weight.double()
    z, y = net.double()(x.double()), found["prediction"]
    apart = (w[y][:, None] - w).norm(dim=2)
    exact = ((z.gather(1, y[:, None]) - z) / apart).scatter(1, y[:, None], math.inf).amin(1)
    radius = found["certified_radius"].double()
    assert (radius <= exact).all() and (exact - radius).max() < 1e-4 and radius.max() > 0.1


def test_metadata_and_what_show_and_check_say(made, capsys):
    net, path = made
    props, text = props_of(load(path)), summary(load(path))
    assert (props["norm"], props["certificate"], props["epsilon"]) == ("l2", "lipschitz", "0.1")
    assert float(props["lipschitz"]) >= lp.lipschitz_bound(net, 2) and float(props["rounding_slope"]) > 0
    assert "no smaller change of x in ℓ2 changes the prediction" in text and "linf::PairwiseRadius" in text
    assert props["file_format"] == FORMAT and norm_of(props) == "l2" and norm_of({}) == "linf"
    assert compare(session(path, "cpu"), net, IMAGES).norm == "l2"


def test_the_command(trained, tmp_path, capsys):
    checkpoint, path = tmp_path / "net.pt", tmp_path / "net.onnx"
    lp.save(checkpoint, trained("sll-mlp"), {"dataset": "digits", "epsilon": 1.5, "norm": "l2"})
    assert main(["model", str(checkpoint), "-o", str(path), "--norm", "l2"]) == 0
    assert "ℓ2 Lipschitz bound" in capsys.readouterr().out
    assert main(["verify", str(path)]) == 0
    out = capsys.readouterr().out
    assert "at ε = 1.5, by lipschitz" in out and "the radius is in ℓ2" in out
    assert main(["check", str(path)]) == 0
    assert "radii in ℓ2" in capsys.readouterr().out
    assert main(["import", str(path), "-o", str(tmp_path / "back.pt")]) == 0
    _, metadata = lp.load(tmp_path / "back.pt")
    assert (metadata["norm"], metadata["epsilon"]) == ("l2", 1.5)
    assert main(["model", str(checkpoint), "-o", str(path), "--force"]) == 0
    assert "epsilon" not in props_of(load(path))  # that of the checkpoint is in another norm


def constant(name: str, change):
    def forge(model):
        (tensor,) = (t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))

    return forge


def nothing(model) -> None:
    pass


@pytest.mark.parametrize(
    "change, props, match",
    [
        (constant("pairs", lambda a: a * 0.9), {}, "initializer pairs is not as it is written"),
        (constant("pairs", lambda a: a * (1 - 1e-6)), {}, "initializer pairs is not as it is written"),
        (constant("pairs", lambda a: a[::-1].copy()), {}, "initializer pairs is not as it is written"),
        (constant("slack", lambda a: a / 2), {}, "initializer slack is not as it is written"),
        (constant("slope", lambda a: a / 2), {}, "initializer slope is not as it is written"),
        (constant("centre", lambda a: a + 0.1), {}, "initializer centre is not as it is written"),
        (constant("most", lambda a: a * 2), {}, "initializer most is not as it is written"),
        (constant("2.weight", lambda a: a * np.float32(1.01)), {}, "lipschitz|rounding_slack|adjoint|pairs"),
        (constant("2.adjoint", lambda a: a * np.float32(0.99)), {}, "initializer 2.adjoint is not as it is written"),
        (constant("4.weight", lambda a: a * np.float32(1.01)), {}, "lipschitz|rounding_slack|pairs"),
        (nothing, {"norm": "linf"}, "lipschitz is .* in the metadata, and must be"),
        (nothing, {"norm": "l1"}, "its norm is 'l1', which this version does not know"),
        (nothing, {"norm": ""}, "its norm is '', which this version does not know"),
        (nothing, {"norm": None}, "norm is missing in the metadata, and must be linf|lipschitz is"),
        (nothing, {"lipschitz": "0.5"}, "lipschitz is 0.5 in the metadata, and must be"),
        (nothing, {"rounding_slack": "0.0"}, "rounding_slack is 0.0 in the metadata, and must be"),
        (nothing, {"rounding_slope": "0.0"}, "rounding_slope is 0.0 in the metadata, and must be"),
        (nothing, {"rounding_slope": None}, "rounding_slope is missing in the metadata"),
        (nothing, {"certificate": "lipschitz, interval"}, "its norm is l2, which is only for files with a radius"),
        (nothing, {"certificate": None}, "its norm is l2, which is only for files with a radius"),
        (nothing, {"epsilon": "-1"}, "its epsilon is '-1', and must be a positive number"),
        (nothing, {"epsilon": "inf"}, "its epsilon is 'inf', and must be a positive number"),
        (nothing, {"epsilon": "0.2"}, "certified_accuracy: recorded is"),
        (nothing, {"flavour": "relu"}, "it claims a certificate, which such a file does not have"),
    ],
)
def test_contradictions(made, file, change, props, match):
    model = onnx.load(file)
    change(model)
    kept = {key: value for key, value in (props_of(model) | props).items() if value is not None}
    seal(model, kept)
    onnx.save(model, file)
    failures = "; ".join(verify(file, IMAGES, made[0](IMAGES).argmax(1), "cpu").failures)
    assert re.search(match, failures)


@pytest.mark.parametrize(
    "name, key", [("pairs", "lipschitz"), ("slack", "rounding_slack"), ("slope", "rounding_slope")]
)
def test_a_bound_that_the_weights_do_not_have(made, file, name, key):
    """Graph, metadata, digest and accuracies agree, and are wrong."""
    model = onnx.load(file)
    constant(name, lambda a: a * 0.9)(model)
    value = str(float(props_of(model)[key]) * 0.9)
    seal(model, props_of(model) | {key: value})
    onnx.save(model, file)
    y = made[0](IMAGES).argmax(1)
    record(file, measure(file, IMAGES, y, 0.1))
    (failure,) = verify(file, IMAGES, y, "cpu").failures
    assert f"{key} is {value} in the metadata, and must be" in failure


def test_a_radius_in_the_other_norm(trained, tmp_path):
    """The ℓ∞ file of a net with the other norm in its metadata, and the other way around."""
    net = trained("sll-mlp")
    for norm, other in (("linf", "l2"), ("l2", "linf")):
        export(net, tmp_path / f"{norm}.onnx", norm=norm, certificate="lipschitz")
        model = onnx.load(tmp_path / f"{norm}.onnx")
        assert contradictions(model) == []
        seal(model, props_of(model) | {"norm": other})
        assert any("is not expected" in f or "in the metadata" in f for f in contradictions(model))


def test_the_norm_of_a_traced_net_cannot_be_forged(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    export(net, tmp_path / "net.onnx", input_shape=(1, 8, 8))
    model = onnx.load(tmp_path / "net.onnx")
    seal(model, props_of(model) | {"norm": "l2"})
    (failure,) = contradictions(model)
    assert "a traced net has no radius in the norm l2" in failure


def test_files_without_a_norm_are_read_in_linf(tmp_path, small_net):
    """Such files are older than other norms.  They run, and show, check and import take them for ℓ∞."""
    net, path = small_net(width=6, depth=2), tmp_path / "net.onnx"
    export(net, path)
    model = onnx.load(path)
    seal(model, {key: value for key, value in props_of(model).items() if key != "norm"})
    onnx.save(model, path)
    assert "no smaller change of x in ℓ∞ changes the prediction" in summary(load(path))
    result = compare(session(path, "cpu"), net, IMAGES)
    assert result.failures == [] and result.norm == "linf"
    assert torch.equal(read_back(load(path))(IMAGES), net(IMAGES))
    (failure,) = verify(path, IMAGES, net(IMAGES).argmax(1), "cpu").failures
    assert "norm is missing in the metadata, and must be linf" in failure


def test_an_unknown_norm_is_said(made, file):
    model = onnx.load(file)
    seal(model, props_of(model) | {"norm": "l3\n"})
    onnx.save(model, file)
    assert "no smaller change of x in an unknown norm changes" in summary(load(file))
    with pytest.raises(ValueError, match=r"its norm is 'l3\\n', which this version does not know"):
        compare(session(file, "cpu"), made[0], IMAGES)


@pytest.mark.parametrize(
    "layer, match",
    [
        ('["potential",{"features":2,"inner":60000,"bias":false}]', "its ℓ2 norm would take too long to bound"),
        (
            '["linear",{"in_features":2,"out_features":60000,"bias":false}]',
            "lipschitz is missing in the metadata, and must be",
        ),
    ],
    ids=["rows", "classes"],
)
def test_very_many_classes_and_rows_need_little_memory(layer, match):
    """A small file may declare a layer whose matrix of pairs, or of rows, would need 27 GB."""
    weight = numpy_helper.from_array(np.ones((60000, 2), np.float32), "0.weight")
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 2])
    model = helper.make_model(helper.make_graph([], "net", [x], [], [weight]))
    props = {"file_format": FORMAT, "norm": "l2", "flavour": "function", "certificate": "lipschitz"}
    seal(model, props | {"net": f'{{"input_shape":[2],"layers":[{layer}]}}'})
    assert re.search(match, "; ".join(contradictions(model)))


@pytest.mark.parametrize(
    "settings, error, match",
    [
        ({"norm": "l3"}, ValueError, "norm must be one of linf, l2, got 'l3'"),
        ({"norm": "l2", "certificate": "none"}, ValueError, "norm l2 is for a certified radius"),
        ({"norm": "l2", "certificate": "interval", "epsilon": 0.1}, ValueError, "norm l2 is for a certified radius"),
        ({"norm": "l2", "flavour": "relu"}, ValueError, "flavour relu is for verifiers"),
        ({"norm": "l2", "epsilon": math.inf}, ValueError, "epsilon must be positive and finite, got inf"),
        ({"norm": "l2", "epsilon": 0.0}, ValueError, "epsilon must be positive and finite, got 0"),
    ],
)
def test_refused_settings(trained, tmp_path, settings, error, match):
    with pytest.raises(error, match=match):
        export(trained("sll-mlp"), tmp_path / "net.onnx", **settings)
    assert not list(tmp_path.iterdir())


def test_refused_nets(small_net, tmp_path):
    with pytest.raises(TypeError, match="no ℓ2 Lipschitz bound is known for LinfDistLinear"):
        export(small_net(width=4, depth=2), tmp_path / "net.onnx", norm="l2")
    with pytest.raises(
        ValueError, match="model gets no certified radius: the Lipschitz bound of a traced net is known"
    ):
        plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
        export(plain, tmp_path / "net.onnx", norm="l2", input_shape=(1, 8, 8))
    assert not list(tmp_path.iterdir())


def test_every_norm_is_known_by_its_name():
    assert set(RADIUS_NORMS) == {"linf", "l2"}

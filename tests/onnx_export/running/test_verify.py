"""What ``verify`` finds in files that are right, and in files that contradict themselves."""

import importlib
import re

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from onnx_export.exporting import export, record
from onnx_export.files.load import load
from onnx_export.files.seal import DIGEST, broken_seal, former_sha256, props_of, seal
from onnx_export.reading.recompute import contradictions
from onnx_export.reading.show import summary
from onnx_export.running.accuracy import measure
from onnx_export.running.session import session
from onnx_export.running.verify import constants_of, verify

VERIFY = importlib.import_module("onnx_export.running.verify")
IMAGES = torch.rand(150, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def labels(made):
    """The predictions, but for some."""
    y = made.net(IMAGES).argmax(1)
    y[:30] = (y[:30] + 1) % 10
    return y


@pytest.fixture
def file(made, labels, tmp_path):
    """A file that records its accuracies."""
    path = tmp_path / "net.onnx"
    path.write_bytes(made.onnx.read_bytes())
    record(path, measure(path, IMAGES, labels, 0.1))
    return path


def rewritten(path, change, props=None):
    """The file changed, its digest again right."""
    model = onnx.load(path)
    change(model)
    seal(model, props_of(model) | (props or {}))
    onnx.save(model, path)
    return path


def constant(name: str, times: float):
    def change(model):
        (tensor,) = (t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * times, name))

    return change


def test_right_file(file, labels):
    found = verify(file, IMAGES, labels, "cpu")
    assert found.failures == [] and found.epsilon == 0.1
    accuracy = found.accuracy
    assert (accuracy.images, accuracy.correct, accuracy.certificate) == (150, 120, "lipschitz")
    assert 0 < accuracy.certified < 120
    text = "; ".join(found.checks)
    for part in (
        "the content is as it was written",
        "those that are written for this net",
        "are those of the weights",
        "no radius is above",
        "clean accuracy recorded",
        "certified accuracy recorded",
    ):
        assert part in text


@pytest.mark.parametrize(
    "settings",
    [
        {"flavour": "inlined"},
        {"pixels": "byte"},
        {"certificate": "none"},
        {"flavour": "relu"},
        {"certificate": "interval", "epsilon": 0.02},
        {"pixels": "byte", "certificate": "interval", "epsilon": 0.02},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_other_right_files(made, labels, tmp_path, settings):
    path = tmp_path / "net.onnx"
    export(made.net, path, {"epsilon": 0.02}, **settings)
    x, y = (torch.round(IMAGES * 255) / 255)[:40], labels[:40]
    record(path, measure(path, x, y, 0.02))
    found = verify(path, x, y, "cpu")
    assert found.failures == [] and found.accuracy.images == 40
    certified = settings.get("certificate") != "none" and settings.get("flavour") != "relu"
    assert (found.accuracy.certified is not None) == certified


def test_other_images_are_a_failure(file, labels):
    """What is recorded was not recomputed, and must not seem to have been."""
    (failure,) = verify(file, IMAGES[:20], labels[:20], "cpu").failures
    assert failure == ("the file records accuracies of 150 images, and these are 20: they are not recomputed")


@pytest.mark.parametrize(
    "change, props, match",
    [
        (constant("2.weight", 1.5), {}, "rounding_slack is .* in the metadata, and must be"),
        (constant("lipschitz", 0.5), {}, "initializer lipschitz is not as it is written"),
        (constant("lipschitz", 2), {}, "initializer lipschitz is not as it is written"),
        (constant("slack", 0.5), {}, "initializer slack is not as it is written"),
        (constant("most", 2.0), {}, "initializer most is not as it is written"),
        (lambda m: None, {"lipschitz": "0.001"}, "lipschitz is 0.001 in the metadata, and must be 2.5"),
        (lambda m: None, {"epsilon": "0.05"}, "certified_accuracy: recorded is"),
        (lambda m: None, {"epsilon": "0.3"}, "certified_accuracy: recorded is"),
        (lambda m: None, {"clean_accuracy": "0.9"}, "clean_accuracy: recorded is 0.9, recomputed 0.8"),
        (lambda m: None, {"test_images": "151"}, "the file records accuracies of 151 images"),
        (lambda m: None, {"certified_accuracy_by": "interval"}, "certified_accuracy_by: recorded is interval"),
        (
            lambda m: None,
            {"norm": "l2"},
            "it cannot be written anew: no ℓ2 Lipschitz bound is known for LinfDistLinear",
        ),
        (lambda m: None, {"norm": "l3"}, "its norm is 'l3', which this version does not know"),
        (lambda m: None, {"radius_unit": "inch"}, "radius_unit is inch"),
        (lambda m: None, {"flavour": "relu"}, "it claims a certificate, which such a file does not have"),
        (lambda m: None, {"flavour": "plain"}, "its flavour is 'plain'"),
        (lambda m: None, {"certificate": "crown"}, "its certificate is 'crown'"),
        (lambda m: None, {"epsilon": "a tenth"}, "its epsilon is 'a tenth', and must be a number in"),
        (lambda m: None, {"epsilon": "nan"}, "its epsilon is 'nan'"),
        (lambda m: None, {"sound": "yes"}, "its metadata have 'sound', which such a file does not have"),
        (
            lambda m: None,
            {"run_x\nagrees": "1"},
            r"its metadata have 'run_x\\nagrees', which such a file does not have",
        ),
        (lambda m: None, {"run_": "1"}, "its metadata have 'run_', which such a file does not have"),
        (lambda m: None, {"run_x": "1\nagrees"}, r"run_x is '1\\nagrees' in the metadata, and must be a line of text"),
        (lambda m: None, {"method": "\x1b[2J"}, r"method is '\\x1b\[2J' in the metadata, and must be a line of text"),
        (lambda m: None, {"net": "{}"}, "it does not describe its net"),
        (lambda m: None, {"file_format": "linf-export 3"}, "its format is 'linf-export 3', and that of this"),
        (
            lambda m: None,
            {"versions": '{"onnx": "1.0"}', "radius_unit": "inch"},
            r"it was written with onnx 1.0 \(here",
        ),
    ],
)
def test_contradictions(file, labels, change, props, match):
    failures = "; ".join(verify(rewritten(file, change, props), IMAGES, labels, "cpu").failures)
    assert re.search(match, failures)


@pytest.mark.parametrize("name, key", [("lipschitz", "lipschitz"), ("slack", "rounding_slack")])
def test_a_bound_that_the_weights_do_not_have(file, labels, name, key):
    """Graph, metadata, digest and accuracies agree, and are wrong."""
    value = constants_of(onnx.load(file))[name] * 0.9
    rewritten(file, constant(name, 0.9), {key: str(value)})
    record(file, measure(file, IMAGES, labels, 0.1))
    (failure,) = verify(file, IMAGES, labels, "cpu").failures
    assert f"{key} is {value} in the metadata, and must be" in failure


def test_a_smaller_bound_of_a_crop(small_net, tmp_path):
    """Of a net with a crop, whose file could once not be read back."""
    net, path = small_net(width=6, depth=2, crop=4), tmp_path / "net.onnx"
    export(net, path)
    x = IMAGES[:20]
    assert verify(path, x, net(x).argmax(1), "cpu").failures == []
    small = constants_of(onnx.load(path))["lipschitz"] / 1000
    rewritten(path, constant("lipschitz", 0.001), {"lipschitz": str(small)})
    assert "lipschitz is" in verify(path, x, net(x).argmax(1), "cpu").failures[0]


def test_a_body_that_native_operators_hide(file, labels):
    """Twice the distance: native operators compute it as it should be, stock onnxruntime does not."""

    def double(model):
        (body,) = (f for f in model.functions if f.name == "LinfDist")
        result, body.node[-1].output[0] = body.output[0], "half"
        body.node.append(helper.make_node("Add", ["half", "half"], [result]))

    found = verify(rewritten(file, double), IMAGES, labels, "cpu")
    assert found.accuracy is None and "functions LinfDist is not as it is written" in found.failures[0]


def test_a_sparse_initializer_of_an_existing_name(file, labels):
    """onnxruntime takes it instead of the dense one."""

    def add(model):
        values = helper.make_tensor("lipschitz", onnx.TensorProto.DOUBLE, [1], [1e-6])
        index = helper.make_tensor("index", onnx.TensorProto.INT64, [1], [0])
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, index, [1]))

    model = onnx.load(file)
    add(model)
    assert "its digest is not that of its content" in contradictions(model)[0] and "CHANGED" in summary(model)
    seal(model, props_of(model))
    assert "sparse initializer" in contradictions(model)[0]
    onnx.save(model, file)
    for read in (lambda: verify(file, IMAGES, labels, "cpu"), lambda: session(file, "cpu")):
        with pytest.raises(ValueError, match="sparse initializer"):
            read()


def test_an_interval_of_another_epsilon(made, labels, tmp_path):
    """The accuracies recorded agree: they are of the ε in the graph."""
    path = tmp_path / "net.onnx"
    export(made.net, path, certificate="interval", epsilon=0.02)
    record(path, measure(path, IMAGES, labels, 0.02))
    assert verify(path, IMAGES, labels, "cpu").failures == []
    failures = verify(rewritten(path, lambda m: None, {"epsilon": "0.021"}), IMAGES, labels, "cpu").failures
    assert "initializer reach is not as it is written" in failures[0]


def test_a_changed_weight(file, labels):
    """By a little, so that only the digest tells."""
    model = onnx.load(file)
    constant("2.weight", np.float32(1 + 1e-7))(model)
    onnx.save(model, file)
    assert verify(file, IMAGES, labels, "cpu").failures == [
        f"{file}: it was changed since it was written: its digest is not that of its content"
    ]


def test_a_certificate_that_is_not_there(file, labels):
    def drop(model):
        del model.graph.output[2:]

    failures = verify(rewritten(file, drop), IMAGES, labels, "cpu").failures
    assert any("output certified_radius is missing" in f for f in failures)


def test_without_digest(file, labels):
    model = onnx.load(file)
    helper.set_model_props(model, {k: v for k, v in props_of(model).items() if k != DIGEST})
    onnx.save(model, file)
    assert "has no digest that binds the claim" in verify(file, IMAGES, labels, "cpu").failures[0]


def test_fields_that_are_there_twice(file, labels):
    """Readers take the last, or the first: the file is not stored as it is written."""
    content = file.read_bytes()
    file.write_bytes(b"\x08\x0a" + content)  # ir_version
    assert "its bytes are not those that this program writes" in verify(file, IMAGES, labels, "cpu").failures[0]


def former(path):
    """The file as version 0.1.0 wrote its metadata."""
    model = onnx.load(path)
    props = {k: v for k, v in props_of(model).items() if k not in ("file_format", "net", DIGEST)}
    helper.set_model_props(model, props | {DIGEST: former_sha256(model)})
    onnx.save(model, path)
    return path


def test_files_of_the_version_before(file, labels):
    """They run, and are to be written again; what their digest leaves out they may not have."""
    (failure,) = verify(former(file), IMAGES, labels, "cpu").failures
    assert "was written by an earlier version" in failure
    assert "linf-export model ../run/net.pt -o FILE --force" in failure
    assert session(file, "cpu").get_outputs()[2].name == "certified_radius"
    assert "(as written)" in summary(load(file))
    model = onnx.load(file)
    model.graph.sparse_initializer.add(dims=[1])
    assert broken_seal(model) == "it has sparse initializers, which no file of linf-export has"
    constant("lipschitz", 0.5)(model := onnx.load(file))
    onnx.save(model, file)
    with pytest.raises(ValueError, match="it was changed since it was written"):
        session(file, "cpu")


def test_one_label_for_each_image(file, labels):
    for y, shape in ((labels[:, None], r"\(150, 1\) for 150"), (labels[:1], r"\(1,\) for 150")):
        with pytest.raises(ValueError, match=f"labels must have shape .* got {shape} images"):
            verify(file, IMAGES, y, "cpu")
    with pytest.raises(ValueError, match=r"labels must have shape .* got \(0,\) for 0 images"):
        verify(file, IMAGES[:0], labels[:0], "cpu")


def test_the_file_is_read_once(file, labels, monkeypatch):
    """What is compared is what is run, whatever lies there meanwhile."""

    def replaced(model):
        file.write_bytes(b"another")
        return contradictions(model)

    monkeypatch.setattr(VERIFY, "contradictions", replaced)
    found = verify(file, IMAGES, labels, "cpu")
    assert found.failures == [] and found.accuracy.correct == 120 and file.read_bytes() == b"another"


def test_files_of_others(labels, tmp_path):
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 64])
    graph = helper.make_graph([helper.make_node("Flatten", ["x"], ["logits"])], "g", [value], [logits])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "f.onnx")
    (failure,) = verify(tmp_path / "f.onnx", IMAGES, labels, "cpu").failures
    assert "linf-export did not write it" in failure


def test_refused(file, labels, tmp_path):
    content = file.read_bytes()
    for name, part in (("text", b"hello"), ("empty", b""), ("half", content[: len(content) // 2])):
        (tmp_path / name).write_bytes(part)
        with pytest.raises(ValueError, match=f"{name} is not a complete ONNX file"):
            verify(tmp_path / name, IMAGES, labels, "cpu")
    with pytest.raises(FileNotFoundError):
        verify(tmp_path / "none.onnx", IMAGES, labels, "cpu")

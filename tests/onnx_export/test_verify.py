"""What ``verify`` finds in files that are right, and in files that contradict themselves."""

import re

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from onnx_export.export import export, record
from onnx_export.properties import Accuracy, content_sha256, props_of
from onnx_export.verify import accuracy_of, constants_of, load_model, measure, verify

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
    found = props_of(model) | (props or {})
    helper.set_model_props(model, found | {"content_sha256": content_sha256(model)})
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
    for part in ("content as it was written", "are the weights'", "no radius is above", "clean accuracy recorded",
                 "certified accuracy recorded"):
        assert part in text


@pytest.mark.parametrize("settings", [
    {"flavour": "inlined"}, {"pixels": "byte"}, {"certificate": "none"}, {"flavour": "relu"},
    {"certificate": "interval", "epsilon": 0.02}, {"pixels": "byte", "certificate": "interval", "epsilon": 0.02},
], ids=lambda s: "-".join(map(str, s.values())))
def test_other_right_files(made, labels, tmp_path, settings):
    path = tmp_path / "net.onnx"
    export(made.net, path, {"epsilon": 0.02}, **settings)
    x, y = (torch.round(IMAGES * 255) / 255)[:40], labels[:40]
    record(path, measure(path, x, y, 0.02))
    found = verify(path, x, y, "cpu")
    assert found.failures == [] and found.accuracy.images == 40
    certified = settings.get("certificate") != "none" and settings.get("flavour") != "relu"
    assert (found.accuracy.certified is not None) == certified


def test_other_images_are_not_compared(file, labels):
    found = verify(file, IMAGES[:20], labels[:20], "cpu")
    assert found.failures == [] and any("of 150 images, so not compared" in c for c in found.checks)


@pytest.mark.parametrize("change, props, match", [
    (constant("2.weight", 1.5), {}, "clean_accuracy: recorded are 120 of 150"),
    (constant("lipschitz", 0.5), {}, "lipschitz is .* in the metadata and"),
    (constant("slack", 0.5), {}, "rounding_slack is .* in the metadata and"),
    (lambda m: None, {"epsilon": "0.05"}, "certified_accuracy: recorded are"),
    (lambda m: None, {"epsilon": "0.3"}, "certified_accuracy: recorded are"),
    (lambda m: None, {"clean_accuracy": "0.9"}, "clean_accuracy: recorded are 135 of 150 images, recomputed 120"),
    (lambda m: None, {"norm": "l2"}, "norm is l2"),
    (constant("most", 2.0), {}, "the graph caps radii at 2.0"),
])
def test_contradictions(file, labels, change, props, match):
    failures = "; ".join(verify(rewritten(file, change, props), IMAGES, labels, "cpu").failures)
    assert re.search(match, failures)


@pytest.mark.parametrize("name, key", [("lipschitz", "lipschitz"), ("slack", "rounding_slack")])
def test_a_bound_that_the_weights_do_not_have(file, labels, name, key):
    """Graph, metadata, digest and accuracies agree, and are wrong."""
    value = constants_of(onnx.load(file))[name] * 0.9
    rewritten(file, constant(name, 0.9), {key: str(value)})
    record(file, measure(file, IMAGES, labels, 0.1))
    failures = verify(file, IMAGES, labels, "cpu").failures
    assert len(failures) == 1 and f"the {name} in the graph is" in failures[0]


def test_an_interval_of_another_epsilon(made, labels, tmp_path):
    """The accuracies recorded agree: they are of the ε in the graph."""
    path = tmp_path / "net.onnx"
    export(made.net, path, certificate="interval", epsilon=0.02)
    record(path, measure(path, IMAGES, labels, 0.02))
    assert verify(path, IMAGES, labels, "cpu").failures == []
    failures = verify(rewritten(path, lambda m: None, {"epsilon": "0.021"}), IMAGES, labels, "cpu").failures
    assert failures[0] == "epsilon is 0.021 in the metadata, and the output certified is of 'epsilon = 0.02'"


def test_a_changed_weight(file, labels):
    """By a little, so that only the digest tells."""
    model = onnx.load(file)
    constant("2.weight", np.float32(1 + 1e-7))(model)
    onnx.save(model, file)
    assert verify(file, IMAGES, labels, "cpu").failures == [
        "the file was changed since it was written: the digest of its content is another"
    ]


def test_a_certificate_that_is_not_there(file, labels):
    def drop(model):
        del model.graph.output[2:]

    failures = verify(rewritten(file, drop), IMAGES, labels, "cpu").failures
    assert any("there is no output certified_radius" in f for f in failures)


def test_refused(file, labels, tmp_path):
    content = file.read_bytes()
    for name, part in (("text", b"hello"), ("empty", b""), ("half", content[: len(content) // 2])):
        (tmp_path / name).write_bytes(part)
        with pytest.raises(ValueError, match=f"{name}"):
            verify(tmp_path / name, IMAGES, labels, "cpu")
        with pytest.raises(ValueError, match="is not a complete ONNX file"):
            load_model(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        verify(tmp_path / "none.onnx", IMAGES, labels, "cpu")
    rewritten(file, lambda m: None, {"epsilon": "a tenth"})
    with pytest.raises(ValueError, match="no number as epsilon, but 'a tenth'"):
        verify(file, IMAGES, labels, "cpu")
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])
    graph = helper.make_graph([], "g", [value], [value])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "f.onnx")
    with pytest.raises(ValueError, match="must have an output logits; it has x"):
        verify(tmp_path / "f.onnx", IMAGES, labels, "cpu")


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

"""What ``show`` tells of a file."""

import onnx
import pytest
from onnx import helper

import linf_plugin
from onnx_export.exporting import export
from onnx_export.reading.show import summary


def test_certified_model(made):
    text = summary(onnx.load(made.onnx), "net.onnx")
    assert text.startswith("net.onnx: ") and "opsets: default 20, linf 1" in text.splitlines()[0]
    for line in (
        "x                  float (batch, 1, 8, 8)",
        "certified_radius   float (batch)",
        "linf::LinfDist         16×64",
        "linf::CertifiedRadius",
        "epsilon                      0.1",
        "(as written)",
        "radius_unit",
    ):
        assert line in text
    assert "one number" not in text  # constants without dimensions are shown
    assert f"{16 * 64 + 16 * 16 + 10 * 16 + 16 + 16 + 10 + 2:,} float32 weights" in text


def test_convolution_and_exponent(small_net, tmp_path):
    net = small_net("linf-conv", channels=(6,), strides=(2,), width=4)
    linf_plugin.set_p(net, 3.5)
    export(net, tmp_path / "net.onnx", certificate="none")
    text = summary(onnx.load(tmp_path / "net.onnx"))
    assert "linf::LpDistConv" in text and "6×1×3×3" in text and "p = 3.5" in text and "strides 2×2" in text


def test_changed_file(made):
    model = onnx.load(made.onnx)
    model.graph.node.pop()
    assert "(CHANGED since it was written)" in summary(model)


@pytest.mark.parametrize("metadata", [{}, {"versions": "not JSON"}], ids=["none", "odd"])
def test_foreign_file(metadata):
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in (("x", "a"), ("a", "b"), ("b", "y"))]
    model = helper.make_model(helper.make_graph(nodes, "g", [value], [out]))
    helper.set_model_props(model, metadata)
    text = summary(model)
    assert [line.split() for line in text.splitlines() if "Relu" in line] == [["Relu", "(3", "times)"]]
    assert ("metadata" in text) == bool(metadata)


def test_names_in_a_file_look_like_nothing_else(made):
    """No line, and no column, that is not the file's own."""
    model = onnx.load(made.onnx)
    model.metadata_props.add(key="seed\ncontent_sha256", value="0 (as written)")
    model.metadata_props.add(key="epsilon                      0.9", value="\x1b[2J\u202e")
    model.graph.output[0].name, model.graph.output[0].type.tensor_type.elem_type = "a\nb", 99
    text = summary(model)
    lines, right = text.splitlines(), summary(onnx.load(made.onnx)).splitlines()
    assert len(lines) == len(right) + 2 and all(line.isprintable() for line in lines)
    assert r"  'seed\ncontent_sha256'       0 (as written)" in lines
    assert r"'epsilon                      0.9' \x1b[2J\u202e" in text and r"'a\nb'             type 99 (" in text

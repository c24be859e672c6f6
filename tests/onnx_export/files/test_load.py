"""Hostile ONNX files: each kind of harm is refused by what is wrong in it, and costs next to nothing."""

import time

import numpy as np
import onnx
import pytest
import torch
from graphs import chain, run
from hostile import onnx_files
from onnx import TensorProto, helper

from onnx_export.files.load import check_model, load
from onnx_export.reading.net import to_net

# Name in ``onnx_files.TABLE`` → what the message says.
REFUSED = {
    "empty": "no outputs",
    "text": "not a complete ONNX file",
    "deep": "not a complete ONNX file",
    "no outputs": "not a complete ONNX file: it has no outputs",
    "only a length": "not a complete ONNX file",
    "ConstantOfShape": r"'big' \(ConstantOfShape\): its value has up to 4,294,967,296 numbers",
    "ConstantOfShape in many sizes": "too many for a file of this size",
    "ConstantOfShape, negative": "too many|cannot be computed",
    "Expand": r"'big' \(Expand\): .* too many",
    "Tile": r"'big' \(Tile\): .* too many",
    "Range": r"'big' \(Range\): .* too many",
    "Range without end": r"'big' \(Range\): its value cannot be computed",
    "Pad": r"'big' \(Pad\): .* too many",
    "Gather": r"'big' \(Gather\): .* too many",
    "MatMul": r"'big' \(MatMul\): .* too many",
    "Where": r"'big' \(Add\): .* too many",
    "Resize": r"\(Resize\): this operator is not supported on constants",
    "Einsum": r"\(Einsum\): this operator is not",
    "many nodes": "200,000 nodes; at most 100,000",
    "functions of functions": "once its functions are inlined",
    "recursive functions": "calls itself",
    "NaN": r"node 'd' \(LinfDist\): the constant 'w' contains NaN",
    "infinite": "'w' contains NaN or inf",
    "complex": "'w' must be float32, got complex64",
    "float16": "'w' must be float32, got float16",
    "float64": "'w' must be float32, got float64",
    "int8": "'w' must be float32, got int8",
    "strings": "'w' must be float32, got object",
    "float8": "the initializer 'w' is of float8e4m3fn",
    "another shape": r"weight of shape \(6, 17\) does not fit",
    "no rows": r"'w' is empty: it has shape \(0, 18\)",
    "more dimensions": r"\(6, 18, 1\) does not fit",
    "negative dims": r"'w' has negative sizes",
    "dims that overflow": "'w' has sizes .* and does not hold as many",
    "dims beyond the data": "'w' has sizes .* and does not hold as many",
    "data twice": "'w' is stored as float_data and raw_data",
    "segment": "'w' comes in segments",
    "type 99": "'w' is of type 99",
    "sparse": "the sparse initializer 'w' is not supported",
    "weights twice": "the initializer 'w' is there 2 times",
    "weights that a node computes": "'w' is the name of two values",
    "weights named as the input": "reads 'w', which no node before it computes",
    "cycle": r"node 'a' \(Sub\) reads 'y', which no node",
    "missing input": r"node 'd' \(LinfDist\) reads 'nowhere'",
    "no output": r"node 'd' \(LinfDist\) has no output",
    "no input": r"'d' \(LinfDist\)",
    "two inputs": "one input, it has 2",
    "weights as the moving part": r"'d' \(LinfDist\): a layer whose weights are computed from the input",
    "three inputs": r"'d' \(LinfDist\): it must have 2 inputs, 1 output and the attributes none",
    "p": "the attribute 'p' is there 2 times",
    "NaN as p": r"'f' \(LpDist\): p must be at least 1 and finite, got nan",
    "strides of 0": r"'b' \(LinfDistConv\): stride must be two",
    "dilations of 0": r"\(LinfDistConv\): dilation must be two",
    "negative pads": r"'b' \(LinfDistConv\): padding must be",
    "huge pads": r"'b' \(LinfDistConv\): its value would have more than",
    "group": r"'d' \(Conv\): kernels of shape .* in its groups",
    "unknown operator": "No Op registered for Adding",
    "unknown domain": "domain 'com.example'",
    "If": r"'chosen' \(If\): this operator is not supported",
    "opset 6": "onnx refuses it",
    "opset 999": "onnx refuses it",
    "opset -1": "onnx refuses it",
    "no opset": "onnx refuses it",
    "IR 99": "onnx refuses it",
    "a huge image": "the input 'x' has 9,895,604,649,984 numbers",
    "a negative image": "the input 'x' must have sizes",
    "input of strings": "the input 'x' must be float32, or uint8 pixels, got string",
    "metadata twice": "the metadata 'epsilon' are there",
    "batch as a number": r"'b' \(Cast\): its value depends on the size of the batch",
    "batch in a product": r"'m' \(Mul\): its value depends on the size of the batch",
    "batch as a size": r"'m' \(Expand\): its value depends on the size of the batch",
    "a body that doubles": "the function linf::LinfDist has another body",
    "a body of another": "linf::DistJoin",
    "a body with a cycle": "linf::LinfDist.* reads 'y', which no node",
    "no body of what is called": "calls linf::DistBlocks, which",
    "Neg as a function": "the function Neg takes the name of a standard operator",
    "coefficients": "its 3 coefficients are not",
    "weights elsewhere": "'w' is stored in '/etc/hostname', which is not within",
    "weights above": r"'\.\./\.\./weights\.bin', which is not within",
    "weights behind a link": "'weights.bin', which is a link",
    "weights cut off": "'w' is stored beyond the end of 'weights.bin'",
    "weights beyond the end": "stored beyond the end",
    "a huge length": r"'w' has sizes \[6, 18\] and is stored in",
    "a negative offset": "'-4'",
    "the folder": "which is not a file",
    "a device": "which is not within",
    "no location": "which is not a file",
}


def _write(name, folder):
    path = folder / "net.onnx"
    path.write_bytes(onnx_files.written(name, folder))
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_what_is_wrong(name, tmp_path):
    path = _write(name, tmp_path)
    with pytest.raises(ValueError, match=REFUSED[name]) as error:
        to_net(load(path))
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 700


@pytest.mark.parametrize("name", ["deep as protobuf allows", "weights missing"])
def test_other_refusals(name, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError)):
        load(_write(name, tmp_path))


@torch.no_grad()
@pytest.mark.parametrize("name", ["weights beside", "no length"])
def test_weights_beside_a_file_are_read(name, tmp_path):
    model, x = onnx_files.distances(), torch.rand(3, 2, 3, 3)
    path = _write(name, tmp_path)
    assert torch.equal(to_net(load(path))(x), to_net(model)(x))
    assert load(path).graph.initializer[3].raw_data and not load(path, weights=False).graph.initializer[3].raw_data


@torch.no_grad()
@pytest.mark.parametrize("name", onnx_files.whole(None, exports=False))
def test_whole_files_are_read(name):
    model = onnx_files.whole(None, exports=False)[name]
    net = to_net(model)
    x = torch.rand(4, *net.input_shape)
    if name == "bytes":
        x = (255 * x).to(torch.uint8)
    ours = net(x / 255 if name == "bytes" else x)
    torch.testing.assert_close(ours, torch.from_numpy(run(model, x)[0]), rtol=1e-5, atol=1e-5)


# What a model must be.


def test_names_of_outer_values_are_not_taken_within():
    for inner, message in (("r", None), ("x", "'x' is the name of two values")):
        nodes = [helper.make_node("Relu", ["x"], [inner]), helper.make_node("Neg", [inner], ["q"])]
        branch = helper.make_graph(nodes, "b", [], [helper.make_tensor_value_info("q", TensorProto.FLOAT, None)])
        model = chain(("Relu", ["·"], {}), c=np.bool_(True))
        model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
        if message is None:
            check_model(model)
        else:
            with pytest.raises(ValueError, match=message):
                check_model(model)


def test_weights_beside_a_file_of_which_nothing_is_said(tmp_path):
    model = onnx_files.distances()
    model.graph.initializer[3].ClearField("raw_data")
    model.graph.initializer[3].data_location = TensorProto.EXTERNAL
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    for read in (lambda: load(tmp_path / "net.onnx"), lambda: check_model(model), lambda: to_net(model)):
        with pytest.raises(ValueError, match="the initializer 'w' does not say where it is stored"):
            read()


def test_two_names_of_one_domain(tmp_path):
    model = onnx_files.distances()
    model.opset_import.add(domain="ai.onnx", version=13)
    with pytest.raises(ValueError, match="the domain '' is imported 2 times"):
        check_model(model)


def test_a_name_in_a_message_is_short(tmp_path):
    model = onnx_files.distances()
    model.graph.node[5].input[1] = "ℓ" * 10_000
    with pytest.raises(ValueError, match="which no node before it computes") as error:
        check_model(model)
    assert len(str(error.value)) < 200


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="is not a file but a folder"):
        load(tmp_path)
    with pytest.raises(ValueError, match="is not a file but a folder or a device"):
        load("/dev/zero")
    with pytest.raises(FileNotFoundError, match="none.onnx does not exist"):
        load(tmp_path / "none.onnx")
    (tmp_path / "net.json").write_text(onnx.printer.to_text(onnx_files.broadcast()))
    with pytest.raises(ValueError, match="not a complete ONNX file"):
        load(tmp_path / "net.json")


def test_a_long_chain_takes_time_in_proportion():
    seconds = []
    for count in (200, 2000):
        model, began = onnx_files.many(count), time.process_time()
        to_net(model)
        seconds.append(time.process_time() - began)
    assert seconds[1] < 40 * seconds[0] + 1

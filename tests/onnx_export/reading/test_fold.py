"""Constants of a graph: computed in memory and time that the file allows, and never from the size of a batch."""

import re
import tracemalloc

import numpy as np
import pytest
import torch
from graphs import chain, run
from hostile import onnx_files
from onnx import TensorProto, helper

from onnx_export.reading import fold
from onnx_export.reading.net import to_net


def test_folding_takes_no_more_than_its_file_allows():
    """In memory that Python and NumPy count."""
    for name in ("ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Gather", "MatMul", "Where", "Resize"):
        model = onnx_files.TABLE[name]()
        tracemalloc.start()
        with pytest.raises(ValueError, match=re.escape("(")):
            to_net(model)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 * 2**20 + 8 * model.ByteSize(), name


def test_many_steps_on_constants_end(monkeypatch):
    monkeypatch.setattr(fold, "MOST_COMPUTED", 40)
    with pytest.raises(ValueError, match="more than 40 constants would have to be computed"):
        to_net(onnx_files.many_constants(50))
    to_net(onnx_files.many_constants(40))
    monkeypatch.setattr(fold, "MOST_NUMBERS", 100)
    with pytest.raises(ValueError, match="too many for a file of this size"):
        to_net(onnx_files.many_constants(40))


def test_small_constants_are_folded_still():
    """A mean that is computed from other numbers, as exporters leave it."""
    nodes = [("Add", ["·", "mean"], {}), ("Relu", ["·"], {})]
    model = chain(*nodes, a=np.float32([1, 2, 3, 4, 5, 6]), s=np.int64([1, 6]))
    computed = [helper.make_node("Sqrt", ["a"], ["b"]), helper.make_node("Expand", ["b", "s"], ["mean"])]
    kept = [*computed, *model.graph.node]
    model.graph.ClearField("node")
    model.graph.node.extend(kept)
    x = torch.randn(2, 6)
    assert torch.equal(to_net(model)(x), torch.from_numpy(run(model, x)[0]))


@pytest.mark.parametrize(
    "op, inputs, attributes, opset, message",
    [
        ("Shape", ["b"], {"end": -3}, 18, r"'c' \(Shape\): it starts or ends beyond the 2 sizes"),
        ("Shape", ["b"], {"start": 3}, 18, r"\(Shape\): it starts or ends beyond"),
        ("Slice", ["b", "last", "last", "one", "last"], {}, 18, r"\(Slice\): a slice in negative steps"),
        ("Slice", ["b", "last", "last", "", "last"], {}, 18, r"\(Slice\): a slice in negative steps"),
        ("Unsqueeze", ["b"], {"axes": [1, 0]}, 12, r"\(Unsqueeze\): its axes must rise from 0 or above, got \[1, 0\]"),
        ("Unsqueeze", ["b"], {"axes": [-2, -1]}, 12, r"\(Unsqueeze\): its axes must rise"),
        ("ReduceMean", ["none"], {}, 17, r"\(ReduceMean\): it is taken over no numbers: its input has shape \(0, 3\)"),
        ("ReduceMin", ["none", "one"], {}, 18, r"\(ReduceMin\): it is taken over no numbers"),
    ],
    ids=str,
)
def test_what_evaluators_do_not_agree_on_is_not_computed(op, inputs, attributes, opset, message):
    model = chain(
        ("Add", ["x", "c"], {}),
        opset=opset,
        b=np.float32([[1, 2, 3]]),
        one=np.int64([1]),
        last=np.int64([-9]),
        none=np.zeros((0, 3), np.float32),
    )
    model.graph.node.insert(0, helper.make_node(op, inputs, ["c"], **attributes))
    with pytest.raises(ValueError, match=message):
        to_net(model)


# The size of a batch.


def _flattened(*nodes, **constants):
    node = helper.make_node
    made = [node("Shape", ["x"], ["n"]), *nodes, node("Reshape", ["x", "s"], ["y"], name="flat")]
    model = chain(("Relu", ["·"], {}), shape=("N", 2, 3), **constants)
    model.graph.ClearField("node")
    model.graph.node.extend(made)
    return model


N = helper.make_node
BATCHES = {
    "first size": ([N("Gather", ["n", "zero"], ["b"], axis=0), N("Concat", ["b", "rest"], ["s"], axis=0)], True),
    "by slice": ([N("Slice", ["n", "zero", "one"], ["b"]), N("Concat", ["b", "six"], ["s"], axis=0)], True),
    "a product of the other sizes": (
        [
            N("Slice", ["n", "one", "three"], ["c"]),
            N("ReduceProd", ["c"], ["d"], keepdims=1),
            N("Concat", ["rest", "d"], ["s"], axis=0),
        ],
        True,
    ),
    "not the first": ([N("Gather", ["n", "zero"], ["b"], axis=0), N("Concat", ["six", "b"], ["s"], axis=0)], False),
    "a product with it": (
        [
            N("Gather", ["n", "zero"], ["b"], axis=0),
            N("Mul", ["b", "one"], ["d"]),
            N("Concat", ["d", "rest"], ["s"], axis=0),
        ],
        False,
    ),
    "the number that stands for it": ([N("Concat", ["any", "six"], ["s"], axis=0)], False),
    "as an index": (
        [
            N("Gather", ["n", "zero"], ["b"], axis=0),
            N("Gather", ["many", "b"], ["d"], axis=0),
            N("Concat", ["d", "rest"], ["s"], axis=0),
        ],
        False,
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("nodes, right", BATCHES.values(), ids=BATCHES)
def test_the_size_of_a_batch_is_only_moved(nodes, right):
    model = _flattened(
        *nodes,
        zero=np.int64([0]),
        one=np.int64([1]),
        three=np.int64([3]),
        rest=np.int64([-1]),
        six=np.int64([6]),
        any=np.int64([fold.BATCHES[0]]),
        many=np.zeros(8000, np.int64),
    )
    if right:
        x = torch.randn(5, 2, 3)
        assert torch.equal(to_net(model)(x), torch.from_numpy(run(model, x)[0]))
    else:
        with pytest.raises(ValueError, match="flattening|depends on the size of the batch"):
            to_net(model)


def test_strings_that_are_no_text():
    model = chain(("Relu", ["·"], {}), ("Add", ["·", "s"], {}))
    model.graph.initializer.add(name="s", data_type=TensorProto.STRING, dims=[1]).string_data.append(b"\xff")
    with pytest.raises(ValueError, match="the initializer 's' holds strings that are not UTF-8"):
        to_net(model)


def test_an_omitted_output_is_no_value():
    """What a node computes under no name does not stand for inputs that are left out."""
    model = chain(("Gemm", ["·", "w", ""], {"transB": 1}), w=np.ones((3, 6), np.float32), c=np.float32([9, 9, 9, 9]))
    split = helper.make_node("Split", ["c"], ["", "q"])
    kept = [split, *model.graph.node]
    model.graph.ClearField("node")
    model.graph.node.extend(kept)
    net = to_net(model)
    assert net.spec["layers"][0][1]["bias"] is False

"""Bodies in a model: which are attached, the memory that they take, and their steps on another device."""

import math
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from cases import INF, box, rows
from one_operator import (
    all_in_onnxruntime,
    assert_distances,
    assert_sorted_sums,
    box_conv_model,
    box_dist_model,
    box_sort_model,
    conv_model,
    dist_model,
    sort_model,
)
from onnx import helper

from linf_plugin.kernels import reference
from onnx_export.functions.distances import BLOCK
from onnx_export.functions.domain import LINF
from onnx_export.functions.library import STEP_SIZES, attach, for_device


def test_attach_adds_what_is_used_once():
    x, w = rows((2, 3, 4))
    model = dist_model(x, w, INF)
    names = [f.name for f in model.functions]
    assert names == ["DistBlocks", "DistJoin", "LinfDist"]
    assert [f.name for f in attach(model).functions] == names


def test_attach_wants_the_opset():
    graph = helper.make_graph([helper.make_node("LinfDist", ["x", "w"], ["y"], domain="linf")], "g", [], [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    with pytest.raises(ValueError, match="opset 18"):
        attach(model)


def assert_converts(model: onnx.ModelProto, **inputs) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """To "cuda" and back, to the same bytes; the results of both on the CPU."""
    before = model.SerializeToString()
    other = for_device(model, "cuda")
    onnx.checker.check_model(other, full_check=True)
    assert model.SerializeToString() == before == for_device(model, "cpu").SerializeToString()
    assert for_device(other, "cpu").SerializeToString() == before != other.SerializeToString()
    return all_in_onnxruntime(model, **inputs), all_in_onnxruntime(other, **inputs)


@pytest.mark.parametrize("shape", [(0, 3, 5), (3, 4, 0), (1, 1, 1), (33, 65, 257), (70, 30, 1000)], ids=str)
def test_large_steps_give_the_same(shape):
    x, w = rows(shape)
    (lower, upper), given = box(x), {"x": x.numpy()}
    ends = {"lower": lower.numpy(), "upper": upper.numpy()}
    for model, inputs in ((dist_model(x, w, INF), given), (box_dist_model(lower, upper, w), ends)):
        for y, z in zip(*assert_converts(model, **inputs), strict=True):
            assert np.array_equal(y, z)
    (_,), (y,) = assert_converts(sort_model(x, w, 0.5, 3), **given)
    assert_sorted_sums(y, x, w, 0.5, 3)
    (_,), (y,) = assert_converts(dist_model(x, w, 3.0), **given)
    assert_distances(y, reference.dist(x.double(), w.double(), 3.0), torch.float32, 3.0, shape[2])


def test_large_steps_of_convolutions_give_the_same():
    x, w, conv = torch.randn(9, 16, 32, 32), torch.randn(4, 16, 3, 3), ([1, 1], [1, 1], [1, 1], 1)
    (y,), (z,) = assert_converts(conv_model(x, w, INF, conv, (9, 4, 32, 32)), x=x.numpy())
    assert np.array_equal(y, z)


@pytest.mark.parametrize("device", STEP_SIZES)
def test_steps(tmp_path, device):
    """As many as the constants say: what a step holds is the size of the blocks."""
    x, w = rows((70, 30, 1000))
    model = for_device(dist_model(x, w, INF), device)
    graph = helper.make_graph(
        [helper.make_node("DistBlocks", ["x", "w"], ["xs", "ws"], domain=LINF.domain)],
        "g",
        model.graph.input,
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("xs", "ws")],
        model.graph.initializer,
    )
    del model.graph.output[:]
    model.graph.CopyFrom(graph)
    xs, ws = all_in_onnxruntime(model, x=x.numpy())
    step = xs.shape[1] * ws.shape[2] * 1000
    assert step == 70 * 30 * 1000 if device == "cuda" else BLOCK / 2 < step <= BLOCK


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="device must be one of cpu, cuda, got 'tpu'"):
        for_device(onnx.ModelProto(), "tpu")


MEMORY = """
import sys
from pathlib import Path
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
rng = np.random.default_rng(0)
small, large = (rng.random((n, *map(int, sys.argv[2:])), np.float32) for n in (1, 256))
def kilobytes(key):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if key in line)
session.run(None, {i.name: small for i in session.get_inputs()})
before = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, and not from the parent's
session.run(None, {i.name: large for i in session.get_inputs()})
print(kilobytes("VmHWM") - before)
"""

CONV = ([1, 1], [1, 1], [1, 1], 1)
KINDS = {  # the shape of x, a model for any number of them
    "linear": ((512,), lambda x: dist_model(x, torch.randn(512, 512), INF)),
    "conv": ((16, 32, 32), lambda x: conv_model(x, torch.randn(2, 16, 3, 3), INF, CONV, (1, 2, 32, 32))),
    "box-linear": ((512,), lambda x: box_dist_model(x, x, torch.randn(512, 512))),
    "box-sorted": ((512,), lambda x: box_sort_model(x, x, torch.randn(512, 512), 0.5, 3)),
    "box-conv": ((16, 32, 32), lambda x: box_conv_model(x, x, torch.randn(2, 16, 3, 3), CONV, (1, 2, 32, 32))),
}


@pytest.mark.parametrize("shape, make", KINDS.values(), ids=KINDS)
def test_memory_is_bounded(tmp_path, shape, make):
    """All differences at once would take 256 MB, all windows 151 MB; of boxes twice that."""
    model = make(torch.zeros(1, *shape))
    onnx.save(model, tmp_path / "m.onnx")
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "m.onnx"), *map(str, shape)]
    kilobytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    copies = 3 * len(model.graph.input)
    assert kilobytes < (32 << 10) + copies * 256 * math.prod(shape) * 4 / 1024

"""The compiled operators in onnxruntime: what they compute, what they refuse, and why they may be missing."""

import math
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from cases import INF, box, by_windows, each_conv, each_dtype, each_p, each_shape, few_p, rows, value_tolerance
from onnx import TensorProto, helper, numpy_helper

import linf_plugin
from linf_plugin.kernels import cpu, reference
from linf_plugin.ops import distance
from onnx_export.functions.domain import OPSET
from onnx_export.functions.library import attach
from onnx_export.running import native

ROOT = Path(linf_plugin.__file__).parents[1]
TYPES = {torch.float32: TensorProto.FLOAT, torch.float64: TensorProto.DOUBLE}

LEVELS = onnxruntime.GraphOptimizationLevel


@pytest.fixture(autouse=True)
def built():
    assert native.available() == (True, cpu.available()[1])


def one_node(
    name: str,
    inputs: tuple[str, ...],
    dtype: torch.dtype = torch.float32,
    outputs: tuple[str, ...] = ("y",),
    after: str | None = None,
    sizes: dict | None = None,
    constants: dict | None = None,
    **attributes,
) -> onnx.ModelProto:
    """A model without bodies; ``after`` names an operator that takes its output, which is declared nowhere."""
    nodes, last = [helper.make_node(name, inputs, outputs, domain="linf", **attributes)], outputs
    if after:
        nodes, last = [*nodes, helper.make_node(after, outputs, ["last"])], ("last",)
    sizes, constants = sizes or {}, constants or {}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(i, TYPES[dtype], sizes.get(i)) for i in inputs if i not in constants],
        [helper.make_tensor_value_info(o, TYPES[dtype], None) for o in last],
        [numpy_helper.from_array(a, key) for key, a in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("linf", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def load(model: onnx.ModelProto, threads: int = 1, level=LEVELS.ORT_ENABLE_ALL) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.graph_optimization_level = threads, level
    options.log_severity_level = 4
    assert native.register(options) is None
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, *tensors: torch.Tensor, **options) -> list[torch.Tensor]:
    session = load(model, **options)
    names = [i.name for i in session.get_inputs()]
    return [torch.from_numpy(y) for y in session.run(None, {n: a.numpy() for n, a in zip(names, tensors)})]


def dist_model(p: float, dtype: torch.dtype = torch.float32, **options) -> onnx.ModelProto:
    name, attributes = ("LinfDist", {}) if p == INF else ("LpDist", {"p": p})
    return one_node(name, ("x", "w"), dtype, **options, **attributes)


# What they compute.


@each_dtype
@each_p
@each_shape
def test_dist(shape, p, dtype):
    x, w = rows(shape, dtype=dtype)
    x[:1] = w[:1] if len(w) else 0  # a distance of 0
    (y,) = run(dist_model(p, dtype), x, w)
    exact = dtype if p == INF else torch.float64
    expected = reference.dist(x.to(exact), w.to(exact), p)
    assert y.dtype == dtype
    torch.testing.assert_close(y.to(exact), expected, rtol=value_tolerance(dtype, p, shape[2]), atol=0)
    assert torch.equal(y, linf_plugin.dist(x, w, p))


@each_dtype
@each_shape
def test_ranges(shape, dtype):
    x, w = rows(shape, dtype=dtype)
    lower, upper = box(x)
    found = run(one_node("LinfBoxDist", ("lower", "upper", "w"), dtype, ("near", "far")), lower, upper, w)
    for y, expected in zip(found, reference.box_dist(lower, upper, w, INF), strict=True):
        assert torch.equal(y, expected) and y.dtype == dtype


@few_p
@pytest.mark.parametrize("bad", [math.nan, INF, -INF])
def test_not_finite_rows(p, bad):
    x, w = rows((20, 3, 19))
    x[:19].fill_diagonal_(bad)
    (y,) = run(dist_model(p), x, w)
    torch.testing.assert_close(y, linf_plugin.dist(x, w, p), rtol=0, atol=0, equal_nan=True)
    assert not y[:19].isfinite().any() and y[19].isfinite().all()


@each_dtype
@few_p
def test_the_number_of_threads_does_not_matter(p, dtype):
    x, w = rows((300, 210, 300), dtype=dtype)
    alone, two = (run(dist_model(p, dtype), x, w, threads=threads)[0] for threads in (1, 2))
    assert torch.equal(alone, two) and torch.equal(alone, linf_plugin.dist(x, w, p))


def test_several_calls_at_once():
    x, w = rows((300, 210, 300))
    expected, session, found = linf_plugin.dist(x, w).numpy(), load(dist_model(INF), threads=2), []
    inputs = {"x": x.numpy(), "w": w.numpy()}
    threads = [threading.Thread(target=lambda: found.append(session.run(None, inputs)[0])) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 4 and all(np.array_equal(y, expected) for y in found)


# In models.


def executed(model: onnx.ModelProto, tmp_path: Path, **inputs: np.ndarray) -> list[str]:
    """Names of the operators that onnxruntime runs for a model, once all that can be is inlined and folded."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 4
    assert native.register(options) is None
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def names(graph):
        for node in graph.node:
            yield node.op_type
            for attribute in node.attribute:
                yield from names(attribute.g)

    return list(names(onnx.load(tmp_path / "optimised.onnx").graph))


@few_p
@each_dtype
def test_a_body_gives_way(p, dtype, tmp_path):
    model = attach(dist_model(p, dtype))
    assert [f.name for f in model.functions][-1] in ("LinfDist", "LpDist")
    assert executed(model, tmp_path) == ["LinfDist" if p == INF else "LpDist"]
    x, w = rows((3, 5, 7), dtype=dtype)
    assert torch.equal(run(model, x, w)[0], linf_plugin.dist(x, w, p))


@each_dtype
@each_conv
def test_inside_the_body_of_a_convolution(conv_case, dtype, tmp_path):
    x_shape, w_shape, (stride, padding, dilation, groups) = conv_case
    x, w = torch.randn(x_shape, dtype=dtype), torch.randn(w_shape, dtype=dtype)
    model = attach(
        one_node(
            "LinfDistConv",
            ("x", "w"),
            dtype,
            sizes={"x": ["n", *x_shape[1:]]},
            constants={"w": w.numpy()},
            strides=stride,
            pads=[*padding, *padding],
            dilations=dilation,
        )
    )
    names = executed(model, tmp_path)
    assert "LinfDist" in names and "ReduceMax" not in names
    (expected,) = by_windows(lambda a, b: reference.dist(a, b, INF), (x,), w, conv_case[2])
    for level in (LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_BASIC, LEVELS.ORT_ENABLE_ALL):
        assert torch.equal(run(model, x, threads=2, level=level)[0], expected)


@each_dtype
def test_type_and_shape_reach_what_follows(dtype):
    x, w = rows((3, 5, 7), dtype=dtype)
    (y,) = run(dist_model(INF, dtype, after="Neg"), x, w)
    assert torch.equal(y, -reference.dist(x, w, INF))
    named = load(dist_model(INF, dtype, sizes={"x": ["batch", 7], "w": [5, 7]}))
    assert named.get_outputs()[0].shape == ["batch", 5]
    unnamed = load(dist_model(INF, dtype)).get_outputs()[0].shape
    assert len(unnamed) == len(set(unnamed)) == 2, "no two sizes are said to be equal"


def test_constants_are_folded(tmp_path):
    x, w = rows((3, 5, 7))
    model = dist_model(INF, constants={"x": x.numpy(), "w": w.numpy()})
    assert torch.equal(run(model)[0], reference.dist(x, w, INF))


# What they refuse.


@pytest.mark.parametrize(
    "shapes, message",
    [
        (((3, 4), (5, 3)), "w must have as many columns as x, 4, got 3"),
        (((3, 4), (5, 0)), "w must have as many columns as x, 4, got 0"),
        (((1, 3, 4), (5, 4)), "x must have 2 dimensions, got 3"),
        (((3, 4), (4,)), "w must have 2 dimensions, got 1"),
        (((), (5, 4)), "x must have 2 dimensions, got 0"),
    ],
)
def test_refused_shapes(shapes, message):
    session = load(dist_model(INF))
    with pytest.raises(Exception, match=message):
        session.run(None, {name: np.zeros(shape, np.float32) for name, shape in zip("xw", shapes)})
    x, w = rows((3, 5, 7))  # the session lives on
    y = session.run(None, {"x": x.numpy(), "w": w.numpy()})[0]
    assert np.array_equal(y, reference.dist(x, w, INF).numpy())


@pytest.mark.parametrize(
    "shapes, message",
    [
        (((3, 4), (2, 4), (5, 4)), "upper must have the shape of lower"),
        (((3, 4), (3, 5), (5, 4)), "upper must have the shape of lower"),
        (((3, 4), (3, 4), (5, 5)), "w must have as many columns as lower, 4, got 5"),
        (((3, 4), (3,), (5, 4)), "upper must have 2 dimensions, got 1"),
    ],
)
def test_refused_boxes(shapes, message):
    names = ("lower", "upper", "w")
    session = load(one_node("LinfBoxDist", names, outputs=("near", "far")))
    with pytest.raises(Exception, match=message):
        session.run(None, {name: np.zeros(shape, np.float32) for name, shape in zip(names, shapes)})


@pytest.mark.parametrize("p", [0.999, 0.0, -2.0, math.nan])
def test_refused_exponents(p):
    with pytest.raises(Exception, match="p must be at least 1, got"):
        load(one_node("LpDist", ("x", "w"), p=p))


def test_an_exponent_is_asked_for():
    with pytest.raises(Exception, match="'p'"):
        load(one_node("LpDist", ("x", "w")))


def test_infinity_is_an_exponent():
    x, w = rows((3, 5, 7))
    assert torch.equal(run(one_node("LpDist", ("x", "w"), p=INF), x, w)[0], reference.dist(x, w, INF))


def _python(code: str, **environment) -> str:
    """What the code prints, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_memory_is_an_error():
    """Neither the distances, which are onnxruntime's, nor a panel of long rows, which is ours."""
    out = _python("""
import resource, sys
import numpy as np
sys.path += ["tests", "tests/onnx_export/running"]
from test_native import INF, dist_model, load
session = load(dist_model(INF))
many, long = np.zeros((30000, 1), np.float32), np.zeros((2, 8 << 20), np.float32)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
for x in (many, long):
    try:
        session.run(None, {"x": x, "w": x})
    except Exception as error:
        print(repr(error))
print(session.run(None, {"x": many[:2], "w": many[:3]})[0].shape)
""")
    theirs, ours, shape = out.splitlines()
    assert "linf: no memory for the distances" in ours and "LinfDist node" in theirs and shape == "(2, 3)"


def test_one_thread_means_the_calling_one():
    """Neither onnxruntime nor the kernels start another; with two, onnxruntime starts one and the kernels none."""
    out = _python("""
import os, sys
import numpy as np
sys.path += ["tests", "tests/onnx_export/running"]
from test_native import INF, dist_model, load
x = np.ones((300, 300), np.float32)
for threads in (1, 2):
    before = len(os.listdir("/proc/self/task"))
    session = load(dist_model(INF), threads=threads)
    session.run(None, {"x": x, "w": x})
    print(len(os.listdir("/proc/self/task")) - before)
    del session
""")
    assert out.split() == ["0", "1"]


# Where they cannot be used.


@pytest.fixture
def fresh():
    """``available`` forgets before and after."""
    native.available.cache_clear()
    yield
    native.available.cache_clear()


def _compiled(source: str, folder: Path) -> Path:
    """A library of C source."""
    (folder / "other.c").write_text(source)
    path = folder / "libcpu.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path, folder / "other.c"], check=True)
    return path


REFUSES = """
struct base { void** (*get)(unsigned); const char* (*runtime)(void); };
void* RegisterCustomOps(void* options, struct base* base) {
    return ((void* (*)(int, const char*))base->get(1)[0])(1, "not today");
}
"""
FAILS = """
void* RegisterCustomOps(void* options, void* base) { return 0; }
"""


@pytest.mark.parametrize(
    "source, reason",
    [
        ("int nothing;", "libcpu.so was built without the operators for onnxruntime; reinstall the package"),
        (REFUSES, "refuses it: .*not today"),
        (FAILS, "refuses it: .*LinfDist"),
    ],
    ids=["no-operators", "another-interface", "registers-nothing"],
)
def test_another_library(source, reason, tmp_path, monkeypatch, fresh):
    monkeypatch.setattr(cpu, "LIBRARY", _compiled(source, tmp_path))
    usable, text = native.available()
    assert not usable and re.search(reason, text)
    assert native.register(onnxruntime.SessionOptions()) == text


def test_no_library(monkeypatch, fresh):
    monkeypatch.setattr(cpu, "available", lambda: (False, "libcpu.so was not built"))
    assert native.available() == (False, "libcpu.so was not built")
    assert native.register(onnxruntime.SessionOptions()) == "libcpu.so was not built"


def test_wrong_numbers(monkeypatch, fresh):
    monkeypatch.setattr(distance, "dist", lambda x, w: torch.zeros(len(x), len(w)))
    assert native.available() == (False, "libcpu.so: its distances in onnxruntime are not those in PyTorch")


def test_without_them_the_body_runs(monkeypatch, fresh):
    monkeypatch.setattr(cpu, "available", lambda: (False, "none"))
    options = onnxruntime.SessionOptions()
    assert native.register(options) == "none"
    x, w = rows((3, 5, 7))
    model = attach(dist_model(INF, sizes={"x": ["n", 7], "w": [5, 7]})).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {"x": x.numpy(), "w": w.numpy()})[0], reference.dist(x, w, INF).numpy())


def test_the_environment_chooses_the_instruction_set():
    code = "from onnx_export.running import native; print(*native.available())"
    for level in cpu.levels():
        assert _python(code, LINF_CPU_LEVEL=level).split() == ["True", level]
    usable, *reason = _python(code, LINF_CPU_LEVEL="abacus").split()
    assert usable == "False" and "abacus" in reason


def test_the_library_itself_knows_the_instruction_sets():
    """For those who load it without Python."""
    code = f"""
import onnxruntime
options = onnxruntime.SessionOptions()
try:
    options.register_custom_ops_library({str(cpu.LIBRARY)!r})
except Exception as error:
    print(error)
"""
    assert _python(code) == ""
    assert "LINF_CPU_LEVEL names an instruction set" in _python(code, LINF_CPU_LEVEL="abacus")


def test_an_older_runtime(tmp_path):
    """It gives no table of this version; the status is made by the first function, which every version has."""
    calls = tmp_path / "calls.c"
    calls.write_text("""
#include <stdio.h>
#include <string.h>
static void* status(int code, const char* message) { printf("%d %s", code, message); return "a status"; }
static void* functions[1] = {(void*)status};
static void** get(unsigned version) { return version == 1 ? functions : NULL; }
static const char* runtime(void) { return "1.16.3"; }
struct base { void** (*get)(unsigned); const char* (*runtime)(void); };
void* RegisterCustomOps(void*, struct base*);
int main(void) { struct base b = {get, runtime}; return RegisterCustomOps(NULL, &b) == NULL; }
""")
    shutil.copy(cpu.LIBRARY, tmp_path)
    program = tmp_path / "calls"
    subprocess.run(["cc", calls, "-o", program, tmp_path / cpu.LIBRARY.name, "-Wl,-rpath,$ORIGIN"], check=True)
    done = subprocess.run([program], check=True, capture_output=True, text=True)
    assert done.stdout == "1 the linf operators need onnxruntime 1.17 or later, this is 1.16.3"

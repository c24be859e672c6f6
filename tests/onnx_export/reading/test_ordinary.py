"""ONNX files of others as modules of PyTorch: what is read, in which form, and what is refused in a sentence."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from graphs import NETS, chain, model_of
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import onnx_export
from linf_plugin import Net, build
from onnx_export.reading.library import Reshape, Slice
from onnx_export.reading.ordinary import module_of, read_model
from onnx_export.running.agreement import agreement

# PyTorch's own exporter uses what PyTorch deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning")
ROOT = Path(__file__).parents[3]


class Residual(nn.Module):
    """Normalisation, BatchNorm, two branches, an average over the image."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.norm(self.a((x - 0.3) / 0.5)).relu()
        return self.last((x + self.b(x)).relu().mean((2, 3)))


class Pieces(nn.Module):
    """Pooling, concatenation, slices, other shapes, other activations."""

    def __init__(self):
        super().__init__()
        self.a, self.last = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Linear(40, 3)

    def forward(self, x):
        x = nn.functional.leaky_relu(self.a(x), 0.1)
        x = torch.cat([nn.functional.avg_pool2d(x, 2), nn.functional.max_pool2d(x, 2)], 1)  # (N, 8, 2, 2)
        pairs = x.view(x.size(0), 4, 2, 2, 2)
        x = torch.cat([pairs.amax(2), pairs.amin(2), x[:, 1:3]], 1)
        return self.last(x.flatten(1).sigmoid())


EXPORTED = {
    "chain": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5), nn.Tanh()
    ),
    "residual": Residual,
    "pieces": Pieces,
}


def _exported(name, opset, path):
    model = EXPORTED[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(model, (torch.rand(2, 1, 8, 8),), path, dynamic_shapes=shapes, opset_version=opset, verbose=False)
    return model


@pytest.mark.parametrize("name, opset", [("chain", 20), ("residual", 18), ("residual", 23), ("pieces", 20)])
@torch.no_grad()
def test_nets_that_pytorch_exports_are_read(name, opset, tmp_path):
    model, x = _exported(name, opset, tmp_path / "net.onnx"), torch.rand(5, 1, 8, 8)
    assert (tmp_path / "net.onnx.data").exists()  # its weights are beside it
    read = read_model(tmp_path / "net.onnx")
    assert not any(module.training for module in read.modules())
    assert (read(x) - model(x)).abs().max() < 1e-6 and (read(x[:1]) - model(x[:1])).abs().max() < 1e-6
    assert isinstance(read, nn.Sequential) == (name == "chain")
    program = torch.export.export(read, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert (program.module()(x[:3]) - model(x[:3])).abs().max() < 1e-6


def test_a_chain_becomes_layers_of_pytorch(tmp_path):
    _exported("chain", 20, tmp_path / "net.onnx")
    kinds = [type(layer) for layer in read_model(tmp_path / "net.onnx")]
    assert kinds == [nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear, nn.Tanh]


W = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
V = np.random.default_rng(1).standard_normal((2, 3, 3, 3)).astype(np.float32)
SHAPES = {  # what exporters write for flattening an image (N, 3, 4, 4)
    "flatten": [("Flatten", ["·"], {})],
    "constant": [("Reshape", ["·", "to"], {})],
    "of-the-file": [("Reshape", ["·", "whole"], {"allowzero": 1})],
    "squeezed": [("Reshape", ["·", "with_one"], {}), ("Squeeze", ["·", "axis"], {})],
}


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_every_way_to_flatten_is_read_as_one(name, opset):
    constants = {"to": np.array([0, -1]), "whole": np.array([-1, 48]), "axis": np.array([1]), "with_one": [-1, 1, 48]}
    model = chain(*SHAPES[name], opset=opset, shape=("N", 3, 4, 4), **constants)
    read, x = module_of(model), torch.rand(7, 3, 4, 4)
    assert type(read[-1]) is nn.Flatten and torch.equal(read(x), x.flatten(1))


@torch.no_grad()
def test_a_shape_that_is_computed_from_the_batch_is_read():
    node = helper.make_node
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["n"]),
        node("Unsqueeze", ["n", "axis"], ["row"]),
        node("Constant", [], ["rest"], value=numpy_helper.from_array(np.array([4, -1]))),
        node("Concat", ["row", "rest"], ["sizes"], axis=0),
        node("Reshape", ["x", "sizes"], ["y"]),
    ]
    model = model_of(nodes, 17, ("N", 3, 4, 4), zero=np.array(0), axis=np.array([0]))
    read, x = module_of(model), torch.rand(5, 3, 4, 4)
    assert [type(layer) for layer in read] == [Reshape] and torch.equal(read(x), x.view(5, 4, 12))


@torch.no_grad()
def test_a_batch_of_one_that_a_file_fixes_becomes_any_batch():
    model = chain(("Reshape", ["·", "to"], {}), ("MatMul", ["·", "w"], {}), shape=(1, 2, 3), to=np.array([1, 6]), w=W)
    read, x = module_of(model), torch.rand(4, 2, 3)
    assert torch.allclose(read(x), x.flatten(1) @ torch.from_numpy(W)) and read(x).shape == (4, 5)
    assert agreement(model, read, x).inputs == 68


@torch.no_grad()
def test_sizes_become_arguments():
    x = torch.rand(3, 6)
    model = chain(
        ("Slice", ["·", "start", "end", "axes", "steps"], {}),
        ("Pad", ["·", "pads"], {}),
        opset=13,
        start=[1],
        end=[6],
        axes=[1],
        steps=[2],
        pads=[0, 1, 0, 2],
    )
    read = module_of(model)
    assert type(read[0]) is Slice and torch.equal(read(x), nn.functional.pad(x[:, 1:6:2], (1, 2)))
    halves = [
        helper.make_node("Split", ["x", "sizes"], ["a", "b"], axis=1),
        helper.make_node("Concat", ["b", "a"], ["y"], axis=1),
    ]
    read = module_of(model_of(halves, 13, sizes=[2, 4]))
    assert torch.equal(read(x), torch.cat([x[:, 2:], x[:, :2]], 1))
    for read in (module_of(model), module_of(model_of(halves, 13, sizes=[2, 4]))):
        torch.export.export(read, (x,))  # which could not follow sizes in a tensor


NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


@pytest.mark.parametrize("opset", [13, 19])
@torch.no_grad()
def test_an_image_that_a_file_makes_larger_is_read(opset):
    scales, x = np.array([1, 1, 2, 3], np.float32), torch.rand(5, 2, 3, 4)
    model = chain(("Resize", ["·", "", "scales"], NEAREST), opset=opset, shape=("N", 2, 3, 4), scales=scales)
    read = module_of(model)
    assert type(read[0]) is nn.Upsample and torch.equal(read(x), x.repeat_interleave(2, 2).repeat_interleave(3, 3))
    agreement(model, read, x)
    torch.export.export(read, (x,))  # which could not follow scales in a tensor


@torch.no_grad()
def test_names_of_nodes_may_be_anything():
    nodes = [
        helper.make_node("Relu", ["x"], ["h"], "x"),
        helper.make_node("MatMul", ["h", "w"], ["i"], "forward"),
        helper.make_node("Tanh", ["i"], ["j"], "initializers"),
        helper.make_node("Neg", ["j"], ["k"], "a.b/c"),
        helper.make_node("Relu", ["k"], ["y"], "x"),
    ]
    x = torch.randn(4, 6)
    expected = (-(x.relu() @ torch.from_numpy(W)).tanh()).relu()
    assert torch.allclose(module_of(model_of(nodes, w=W))(x), expected)


@torch.no_grad()
def test_functions_are_inlined_and_what_the_logits_do_not_need_is_left_out():
    twice = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    nodes = [
        helper.make_node("Twice", ["x"], ["logits"], domain="mine"),
        helper.make_node("Foo", ["x"], ["other"], domain="b"),
    ]
    model = model_of(nodes, outputs=("other", "logits"))
    model.functions.append(twice)
    model.opset_import.extend([helper.make_opsetid("mine", 1), helper.make_opsetid("b", 1)])
    x = torch.rand(3, 6)
    assert torch.equal(module_of(model)(x), 2 * x)


@torch.no_grad()
def test_weights_that_are_also_inputs_are_weights():
    model = chain(("MatMul", ["·", "w"], {}), opset=9, w=W)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, W.shape))
    x = torch.rand(3, 6)
    assert torch.allclose(module_of(model)(x), x @ torch.from_numpy(W))


@pytest.mark.parametrize("name", ["distances", "relu-convolution"])
@torch.no_grad()
def test_files_with_our_operators_are_read_by_our_reader(name, tmp_path):
    architecture, arguments = NETS[name]
    net = build(architecture, **{"shape": (1, 8, 8), "classes": 3, **arguments}).eval()
    onnx_export.export(net, tmp_path / "net.onnx")
    read, x = read_model(tmp_path / "net.onnx"), torch.rand(3, *net.input_shape)
    assert isinstance(read, Net) and torch.equal(read(x), net(x))


def _float64():
    return chain(("Cast", ["·"], {"to": TensorProto.DOUBLE}), ("Cast", ["·"], {"to": TensorProto.FLOAT}))


def _of_doubles():
    model = chain(("MatMul", ["·", "w"], {}), w=W.astype(np.float64))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return model


def _two_inputs():
    model = chain(("Add", ["·", "z"], {}))
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ("N", 6)))
    return model


def _of_two_outputs():
    return model_of([helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["x"], ["b"])], outputs=("a", "b"))


def _foreign():
    model = model_of(
        [helper.make_node("FusedThing", ["x"], ["h"], domain="com.microsoft"), helper.make_node("Relu", ["h"], ["y"])]
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def _data_dependent():
    nodes = [
        helper.make_node("Cast", ["x"], ["s"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["x", "s"], ["y"]),
    ]
    return model_of(nodes, shape=(6,))


IMAGE = ("N", 3, 8, 8)
REFUSED = {
    "unknown-operators": (
        lambda: chain(("Hardmax", ["·"], {}), ("Shrink", ["·"], {}), ("Relu", ["·"], {})),
        r"onnx2torch [\d.]+ does not know the operators Hardmax, Shrink$",
    ),
    "foreign-domain": (_foreign, r"does not know the operator com.microsoft::FusedThing$"),
    "open-sizes": (
        lambda: chain(("Relu", ["·"], {}), shape=("N", 3, "H", "W")),
        "must have sizes that are known, except",
    ),
    "fixed-batch": (
        lambda: chain(("Relu", ["·"], {}), shape=(64, 6)),
        "fixed batch of 64: export the net with any batch",
    ),
    "two-inputs": (_two_inputs, "the model must have one input, it has 2"),
    "two-outputs": (_of_two_outputs, "must have one output, or one named logits; it has a, b"),
    "doubles": (_of_doubles, "the input 'x' must be float32, or uint8 pixels, got double"),
    "in-doubles": (_float64, r"node 'n0' \(Cast\) computes in double, and only float32 is read"),
    "half-weights": (
        lambda: chain(("Cast", ["w"], {"to": 1}), ("MatMul", ["x", "·"], {}), w=W.astype(np.float16)),
        None,  # the weights are converted when the file is read
    ),
    "bytes": (
        lambda: chain(("Cast", ["·"], {"to": TensorProto.FLOAT16}), ("Cast", ["·"], {"to": 1})),
        "computes in float16",
    ),
    "mixed-batch": (
        lambda: chain(("Reshape", ["·", "to"], {}), shape=("N", 6), to=np.array([-1, 12])),
        r"node 'n0' \(Reshape\): ",
    ),
    "transposed": (
        lambda: chain(("Reshape", ["·", "to"], {}), shape=("N", 6), to=np.array([1, -1])),
        r"node 'n0' \(Reshape\): it does not keep the first size, which is that of the batch",
    ),
    "unknown-shape": (
        lambda: chain(("Cast", ["x"], {"to": TensorProto.INT64}), ("Reshape", ["x", "·"], {}), shape=("N",)),
        "must have sizes that are known",
    ),
    "no-input": (lambda: chain(("Neg", ["w"], {}), w=W), "the output 'y' does not depend on the input"),
    "padding-by-name": (
        lambda: chain(("Conv", ["·", "v"], {"auto_pad": "SAME_UPPER"}), shape=IMAGE, v=V),
        'onnx2torch does not convert it: NotImplementedError: "SAME_UPPER" auto_pad is not implemented',
    ),
    "linear-resize": (
        lambda: chain(("Resize", ["·", "", "s"], {"mode": "linear"}), shape=IMAGE, s=np.float32([1, 1, 2, 2])),
        "node .*: a Resize is supported only if it repeats the nearest pixels by fixed scales",
    ),
    "resized-channels": (
        lambda: chain(("Resize", ["·", "", "s"], NEAREST), shape=IMAGE, s=np.float32([1, 2, 1, 1])),
        "node .*: a Resize is supported only if it repeats the nearest pixels by fixed scales",
    ),
    "old": (lambda: chain(("Relu", ["·"], {}), opset=6), "the opset must be one of 7 to"),
}


@pytest.mark.parametrize("name", [name for name, (_, message) in REFUSED.items() if message])
def test_what_is_refused_is_said_in_a_sentence(name, tmp_path):
    make, message = REFUSED[name]
    (tmp_path / "net.onnx").write_bytes(make().SerializeToString())
    with pytest.raises(ValueError, match=message) as error:
        read_model(tmp_path / "net.onnx")
    assert str(error.value).startswith(f"{tmp_path}/net.onnx") and "\n" not in str(error.value)


@torch.no_grad()
def test_weights_that_a_file_converts_to_float32_are_read():
    make, _ = REFUSED["half-weights"]
    x = torch.rand(3, 6)
    assert torch.allclose(module_of(make())(x), x @ torch.from_numpy(W.astype(np.float16).astype(np.float32)))


def test_a_constant_that_would_fill_the_memory_is_refused():
    model = chain(("Expand", ["one", "sizes"], {}), ("Mul", ["x", "·"], {}), one=np.float32([1]), sizes=[2**20, 2**20])
    with pytest.raises(ValueError, match="too many for a file of this size"):
        module_of(model)


EXTERNAL = {
    "missing": ("w.bin", None, FileNotFoundError, "w.bin, where the tensor 'w' is stored, is missing"),
    "outside": ("../w.bin", b"", ValueError, "is not within the folder of the file"),
    "absolute": ("/etc/hostname", b"", ValueError, "is not within the folder of the file"),
    "short": ("w.bin", b"\0" * 8, ValueError, "weights take|beyond the end"),
}


@pytest.mark.parametrize("name", EXTERNAL)
def test_weights_beside_a_file_must_be_its_own(name, tmp_path):
    place, content, kind, message = EXTERNAL[name]
    model = chain(("MatMul", ["·", "w"], {}), w=W)
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "net.onnx").write_bytes(model.SerializeToString())
    if content is not None and not os.path.isabs(place):
        (tmp_path / "folder" / place).write_bytes(content)
    with pytest.raises(kind, match=message):
        read_model(tmp_path / "folder" / "net.onnx")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x08\x08"])
def test_what_is_no_onnx_file_is_refused(content, tmp_path):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ValueError, match="net.onnx is not a complete ONNX file"):
        read_model(tmp_path / "net.onnx")


# How onnx2torch is imported.

READ = """
import sys
{before}
from onnx_export.reading.ordinary import read_model
print(type(read_model(sys.argv[1])).__name__, sorted(name for name in sys.modules if name.startswith("torchvision")))
"""


def _read_in_a_process(path, before="", folder=None):
    code = READ.format(before=before)
    paths = [str(folder)] * bool(folder) + [str(ROOT)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, env=environment)


@pytest.fixture
def file(tmp_path):
    onnx.save(chain(("Relu", ["·"], {})), tmp_path / "net.onnx")
    return str(tmp_path / "net.onnx")


def test_onnx2torch_needs_no_torchvision(file, tmp_path):
    folder = tmp_path / "broken" / "torchvision"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    done = _read_in_a_process(file, folder=folder.parent)
    assert (done.stdout, done.returncode) == ("Sequential []\n", 0), done.stderr


def test_a_torchvision_that_works_is_used(file, tmp_path):
    folder = tmp_path / "whole" / "torchvision"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "ops.py").write_text("def roi_align(): pass")
    done = _read_in_a_process(file, folder=folder.parent)
    assert done.stdout == "Sequential ['torchvision', 'torchvision.ops']\n", done.stderr


def test_without_onnx2torch_the_message_says_how_to_install_it(file):
    done = _read_in_a_process(file, "sys.modules['onnx2torch'] = None")
    last = done.stderr.splitlines()[-1]
    command = "pip install 'linf-plugin[onnx-models]'; or, without torchvision, pip install --no-deps onnx2torch"
    assert last == f"ImportError: onnx2torch is not installed: {command}"

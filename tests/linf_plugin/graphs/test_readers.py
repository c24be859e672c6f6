"""Every operator that is read computes in the graph what it computes in the net; refusals name it and its line."""

import ast
import copy
import random
import re
from pathlib import Path

import pytest
import torch
from fuzz.uses import computed
from fuzz.uses.table import UNUSED, USES
from fuzz.uses.use import Use
from torch import Tensor, nn

import linf_plugin.graphs.capture as capturing
from linf_plugin import LinfDistConv2d
from linf_plugin.graphs.capture import capture
from linf_plugin.graphs.readers.table import READERS

SHAPES = (  # of one sample; odd sizes, rows of features, one number, none
    (),
    (7,),
    (6,),
    (5, 3),
    (4, 6),
    (3, 5, 7),
    (4, 6, 4),
    (8, 3, 2),
    (2, 3, 5, 4),
    (1, 7),
    (2, 1, 5),
)
EMPTY_IS_WRONG = ("aten.pixel_unshuffle",)  # PyTorch itself gives another shape without samples


class Used(nn.Module):
    """A net of one use of an operator."""

    def __init__(self, use: Use, arguments: dict):
        super().__init__()
        self.use, self.arguments = use, arguments
        self.inner = use.make(**arguments) if use.make else None

    def forward(self, x: Tensor) -> Tensor:
        values = (x, 0.5 * x - 0.25)[: self.use.takes]
        return self.use.run(*values, **self.arguments) if self.inner is None else self.inner(*values)


def _positive(net: nn.Module) -> nn.Module:
    """Draws statistics and slopes that are not those of a new layer."""
    for name, a in (*net.named_parameters(), *net.named_buffers()):
        if name.endswith("running_mean"):
            a.normal_()
        elif name.endswith("running_var") or isinstance(net.inner, (nn.PReLU, computed.Prelu)):
            a.uniform_(0.1, 1.5)
    return net


def _cases(name: str):
    """(use, shape, arguments) for two shapes that fit each use, or one if there are no more."""
    for k, use in enumerate(USES[name]):
        found = 0
        for shape in random.Random(f"{name}/{k}").sample(SHAPES, len(SHAPES)):
            arguments = use.draw(random.Random(f"{name}/{k}/{shape}"), *[shape] * use.takes)
            if arguments is not None and found < 2:
                found += 1
                yield use, shape, arguments
        assert found, f"no shape of SHAPES fits use {k} of {name}"


@pytest.fixture
def called(monkeypatch) -> list[str]:
    """The names of the readers that were called."""
    found: list[str] = []
    for name, reader in READERS.items():

        def read(builder, arguments, name=name, reader=reader):
            found.append(name)
            return reader(builder, arguments)

        monkeypatch.setitem(capturing.READERS, name, read)
    return found


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("name", USES)
@torch.no_grad()
def test_the_graph_computes_what_the_net_computes(name, called):
    """In float64 to 10⁻¹² of the largest number, in batches of three, one and none."""
    for use, shape, arguments in _cases(name):
        net = _positive(Used(use, arguments).eval().requires_grad_(False))
        x, double = torch.randn(3, *shape), copy.deepcopy(net).double()
        graph = capture(net, x)
        assert all(a.dtype == torch.float64 for a in (*graph.parameters(), *graph.buffers()) if a.is_floating_point())
        for samples in (3, 1, 0):
            given = x[:samples].double()
            try:
                expected = double(given.clone())
            except (RuntimeError, IndexError):
                assert samples == 0
                continue
            if samples == 0 and name in EMPTY_IS_WRONG:
                continue
            found = graph(given)
            assert found.shape == expected.shape
            size = expected.abs().amax() if expected.numel() else 1.0
            assert ((found - expected).abs() <= 1e-12 * max(float(size), 1e-300)).all(), (shape, arguments)
    assert name in called, f"torch.export does not call {name} in these cases, but {set(called)}"


def test_every_reader_has_a_case():
    missing = READERS.keys() - USES.keys() - UNUSED.keys()
    assert not missing, f"{missing}: add a use to tests/fuzz/uses"
    assert USES.keys() <= READERS.keys() and UNUSED.keys() <= READERS.keys()


# What is refused.  A net is the text of its forward, so that the line is known.

HEAD = """import torch
import torch.nn.functional as F


class Net(torch.nn.Module):
    def forward(self, x):
"""


def _net(path: Path, code: str, held: dict) -> nn.Module:
    """A module in a file of its own.  The last line of ``code`` is returned; what it names may be in ``held``."""
    *before, last = code.split("; ")
    path.write_text(HEAD + "".join(f"        {line}\n" for line in (*before, f"return {last}")))
    made: dict = {}
    exec(compile(path.read_text(), str(path), "exec"), made)
    net = made["Net"]()
    for name, a in held.items():
        net.register_buffer(name, a) if isinstance(a, Tensor) else setattr(net, name, a)
    return net.eval()


ROW, ROWS, FRAMES = (2, 4), (2, 3, 4), (2, 3, 1, 4, 4)
C, W = {"c": torch.tensor([0.1, 0.2, 0.3, 0.7])}, {"w": torch.ones(3, 3)}
NORM = {"a": torch.zeros(4), "b": torch.ones(4)}
JOINED = "self.layer(x.reshape(-1, *x.shape[2:])).reshape(x.shape[0], -1)"  # rows joined with the samples

# operator, words of the message, shape of x, forward, what the net holds
REFUSED = [
    # A sample by itself.
    ("mean", "it reduces over the samples of a batch, so", ROW, "x - x.mean()", {}),
    ("mean", "it reduces over the samples of a batch, so", ROW, "x - x.mean(0)", {}),
    ("amax", "it reduces over the samples of a batch, so", ROW, "x - x.amax((0, 1), keepdim=True)", {}),
    ("max", "it reduces over the samples of a batch, so", ROW, "x - x.max()", {}),
    ("sort", "it reduces over the samples of a batch, so", ROW, "x.sort(0).values", {}),
    ("flip", "it mixes the samples of a batch, so", ROW, "x.flip(0)", {}),
    ("roll", "it mixes the samples of a batch, so", ROW, "x.roll(1, 0)", {}),
    ("roll", "it mixes the samples of a batch, so", ROW, "x.roll(1)", {}),
    ("t", "it mixes the samples of a batch, so", ROW, "x.t()", {}),
    ("numpy_T", "no rule is known for it", ROW, "x.T", {}),
    ("permute", "it mixes the samples of a batch, so", ROWS, "x.permute(1, 0, 2)", {}),
    ("transpose", "it mixes the samples of a batch, so", ROW, "x @ x.transpose(0, 1)", {}),
    ("matmul", "its weights depend on the input:", ROWS, "x @ x.transpose(1, 2)", {}),
    ("batch_norm", "it normalises by the mean of the batch:", ROW, "F.batch_norm(x, None, None, training=True)", {}),
    ("mul", "it computes with the number of samples, so", ROW, "x * x.shape[0]", {}),
    ("arange", "it makes a tensor with the number of samples:", ROW, "x + torch.arange(x.shape[0])[:, None]", {}),
    ("expand", "it makes a tensor with the number of samples:", ROW, "x + self.c.expand(x.shape[0], -1)", C),
    ("new_zeros", "no rule is known for it", ROW, "torch.cat([x, x.new_zeros(x.shape[0], 1)], 1)", {}),
    ("sym_min", "nothing is known of it", ROW, "x * torch.zeros(min(x.shape[0], 100))[:1]", {}),
    # Joined rows.
    ("batch_norm", "the rows of its input are joined with", ROWS, JOINED, {"layer": nn.BatchNorm1d(4)}),
    ("prelu", "the rows of its input are joined with", ROWS, JOINED, {"layer": nn.PReLU(4)}),
    ("max_pool2d", "the rows of its input are joined with", FRAMES, JOINED, {"layer": nn.MaxPool2d(2)}),
    ("conv2d", "its input is no batch of images", FRAMES, JOINED, {"layer": nn.Conv2d(1, 2, 2)}),
    ("linf.dist_conv2d", "the rows of its input are joined", FRAMES, JOINED, {"layer": LinfDistConv2d(1, 2, 2)}),
    # Operators and their arguments.
    ("softmax", "no rule is known for it", ROW, "x.softmax(1)", {}),
    ("to", "its result is torch.float64: rounding is known", ROW, "x.double().float()", {}),
    ("gt", "its result is torch.bool: rounding is known", ROW, "torch.where(x > 0, x, -x)", {}),
    ("getitem", "its second result is used, and", ROW, "torch.native_dropout(x, 0.5, False)[1] * x", {}),
    ("dropout", "it drops values at random:", ROW, "F.dropout(x)", {}),
    ("pad", "it pads with 1.0:", ROW, "F.pad(x, (1, 1), value=1.0)", {}),
    ("cat", "it joins values with constants:", ROW, "torch.cat([x, self.c[None]], 0)", C),
    ("copy", "it replaces values by constants:", ROW, "torch.ops.aten.copy(x, self.c)", C),
    ("clamp", "its ends are tensors:", ROW, "x.clamp(self.a, self.b)", NORM),
    ("clamp", "its ends 2 and 1 are not in order", ROW, "x.clamp(2.0, 1.0)", {}),
    ("leaky_relu", "a slope is -0.5:", ROW, "F.leaky_relu(x, -0.5)", {}),
    ("elu", "an ELU is known for 0 ≤ alpha ≤ 1 and", ROW, "F.elu(x, 2.0)", {}),
    ("softplus", "a softplus is known for beta from", ROW, "F.softplus(x, 2.0**21)", {}),
    ("softplus", "a softplus is known for beta from", ROW, "F.softplus(x, 1.0, 5.0)", {}),
    ("matmul", "it multiplies by something else than a matrix", ROW, "x @ self.c", C),
    ("matmul", "its weights depend on the input:", ROWS, "self.w @ x", W),
    ("addmm", "it scales its product:", (2, 3), "torch.addmm(self.w[0], x, self.w, beta=2)", W),
    ("conv3d", "it convolves 3 dimensions, and", (2, 1, 3, 3, 3), "self.layer(x)", {"layer": nn.Conv3d(1, 2, 2)}),
    ("add", "it scales a constant (alpha):", ROW, "torch.add(x, self.c, alpha=2)", C),
    ("pow", "its exponent is 3, and only squares", ROW, "x**3", {}),
    ("div", "it divides by a value that depends on the", ROW, "x / x.sum(1, keepdim=True)", {}),
    ("div", "it rounds quotients to whole numbers", ROW, 'torch.div(x, 2, rounding_mode="floor")', {}),
    ("div", "it divides by 1e-35, which", ROW, "x / 1e-35", {}),
    ("batch_norm", "a variance plus eps is -1, and", ROW, "F.batch_norm(x, self.a, self.a - 1, eps=0.0)", NORM),
    ("maximum", "one of its operands is a constant that is not", ROW, "torch.maximum(x, self.c / 0)", C),
    ("sort", "it sorts 65 numbers, and at most 64", (2, 65), "x.sort(1).values", {}),
    # Constants.
    ("linspace", "it makes numbers:", ROW, "x + torch.linspace(0, 1, 4)", {}),
    ("randint", "it makes numbers:", ROW, "x + torch.randint(0, 2, (4,))", {}),
    ("rand_like", "its numbers differ each time:", ROW, "x + torch.rand_like(self.c)", C),
    ("empty_like", "its numbers differ each time:", ROW, "x + torch.empty_like(self.c)", C),
    ("mul", "it computes with constants and rounds:", ROW, "x + self.c * 0.1", C),
]
# Messages that no net reaches: another one comes first.
UNREACHABLE = (
    "its indices depend on the input:",  # indices are whole numbers, and a value is float32
    "its input has no dimension of features",
    "its constant has shape",
    "its values have shapes",
    "it has no running statistics, so",
)


def _message(path: Path, shape: tuple[int, ...], code: str, held: dict) -> str:
    with pytest.raises(TypeError) as error:
        capture(_net(path, code, held), torch.rand(shape))
    return str(error.value)


@pytest.mark.parametrize("case", REFUSED, ids=[f"{case[0]}-{i}" for i, case in enumerate(REFUSED)])
def test_a_refusal_names_the_operator_and_its_line(case, tmp_path):
    operator, words, shape, code, held = case
    path = tmp_path / "net.py"
    message = _message(path, shape, code, held)
    line = len(path.read_text().splitlines())
    where = f"no bound of the rounding error is known for {operator} at {path}, line {line}"
    assert re.match(rf"{re.escape(where)}( of layer .*)?: {re.escape(words)}", message), message
    assert message.endswith("sound=False leaves rounding out")


def _texts() -> list[str]:
    """The texts of all ``Unknown`` as patterns."""
    found = []
    for path in Path(capturing.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Unknown":
                (text,) = node.args
                parts = text.values if isinstance(text, ast.JoinedStr) else [text]
                found.append("".join(re.escape(p.value) if isinstance(p, ast.Constant) else ".*" for p in parts))
    return found


def test_every_refusal_of_an_operator_has_a_case(tmp_path):
    messages = [_message(tmp_path / "net.py", *case[2:]) for case in REFUSED]
    texts = [text for text in _texts() if not text.startswith(tuple(map(re.escape, UNREACHABLE)))]
    missing = [text for text in texts if not any(re.search(f": {text}. sound=", m) for m in messages)]
    assert len(texts) > 30 and not missing, f"{missing}: add a net to REFUSED in this file"


# What is refused as a whole.

WHOLE = {  # words of the message, forward, what the net holds
    "two-outputs": ("returns 2 tensors that depend on its input, and a certificate is about one", "x, -x", {}),
    "no-output": ("returns no tensors that depend on its input", "self.c", C),
    "joined-output": ("joins rows of each sample with the samples: it must return", "x.reshape(-1, 2)", {}),
    "choice": ("cannot read the program of Net for every number of samples", "x if x.sum() > 0 else -x", {}),
    "counter": ("changes 'c' each time it runs", "self.c.add_(1); x", C),
    "fixed-number": ("cannot read the program of Net for every number of samples", "x.reshape(3, -1)", {}),
    "few-samples": (
        "of Net is another one for some numbers of samples, .* if x.shape.0. < 1000. sound",
        "x[:1000]",
        {},
    ),
    "fifth": ("another one for some numbers of samples, .*x.shape.0. % 5", "-x if x.shape[0] % 5 == 0 else x", {}),
}


@pytest.mark.parametrize("words, code, held", WHOLE.values(), ids=WHOLE)
def test_programs_that_are_no_function_of_one_sample_are_refused(words, code, held, tmp_path):
    with pytest.raises(TypeError, match=words):
        capture(_net(tmp_path / "net.py", code, held), torch.rand(2, 4))


def test_the_line_is_named_whatever_the_folders_of_the_code_are_called(tmp_path):
    """A folder with the name of a library is not its folder."""
    path = tmp_path / "torch" / "linf_plugin" / "net.py"
    path.parent.mkdir(parents=True)
    assert f"softmax at {path}, line 7: " in _message(path, ROW, "x.softmax(1)", {})


@torch.no_grad()
def test_numbers_are_read_as_float32_reads_them(tmp_path):
    """0.1 in the code is a float32 number in the program."""
    graph, x = capture(_net(tmp_path / "net.py", "x * 0.1", {}), torch.rand(2, 4)), torch.rand(5, 4).double()
    assert torch.equal(graph(x), x * torch.tensor(0.1).double()) and not torch.equal(graph(x), x * 0.1)

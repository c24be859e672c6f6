"""Nets of plain PyTorch in ``export``, ``verify`` and the commands."""

import math
import re

import numpy as np
import onnx
import pytest
import torch
import traced_nets
from safetensors.torch import save_file
from torch import nn

import linf_plugin
from linf_plugin.datasets import load_dataset
from onnx_export.cli import main
from onnx_export.exporting import export, record
from onnx_export.files.load import load
from onnx_export.files.seal import props_of, seal
from onnx_export.running.accuracy import measure
from onnx_export.running.compare import compare
from onnx_export.running.session import run, session
from onnx_export.running.verify import verify

EPSILON = 0.002


@pytest.fixture(scope="module")
def net():
    return traced_nets.net_of("resnet")[0]


@pytest.fixture(scope="module")
def images():
    return torch.rand(60, 1, 9, 9, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def labels(net, images):
    """The predictions, but for some."""
    y = net(images).argmax(1)
    y[:10] = (y[:10] + 1) % 5
    return y


@pytest.fixture
def file(net, images, labels, tmp_path):
    """A file that records its accuracies."""
    path = tmp_path / "net.onnx"
    export(net, path, input_shape=(1, 9, 9), epsilon=EPSILON)
    record(path, measure(path, images, labels, EPSILON))
    return path


# What the file says.


def test_metadata(file):
    props = props_of(load(file))
    assert props["file_format"] == "linf-export 2" and props["certificate"] == "lipschitz, interval"
    assert props["epsilon"] == str(EPSILON) and "net" not in props and '"largest window"' in props["graph"]
    assert props["certified_accuracy_by"] == "interval"
    assert b"traced_nets" not in file.read_bytes() and str(traced_nets.__file__).encode() not in file.read_bytes()


def test_same_bytes_again(net, file, tmp_path, images, labels):
    again = tmp_path / "again" / "net.onnx"
    export(net, again, input_shape=[1, 9, 9], epsilon=EPSILON)
    record(again, measure(again, images, labels, EPSILON))
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "settings, certificate, outputs",
    [
        ({}, "lipschitz", ["certified_radius"]),
        ({"certificate": "none", "epsilon": 0.1}, None, []),
        ({"certificate": "lipschitz", "epsilon": 0.1}, "lipschitz", ["certified_radius"]),
        ({"epsilon": 0.1}, "lipschitz, interval", ["certified_radius", "certified", "lower", "upper"]),
        (
            {"certificate": "interval", "epsilon": 0.1, "pixels": "byte"},
            "lipschitz, interval",
            ["certified_radius", "certified", "lower", "upper"],
        ),
    ],
)
def test_certificates(net, tmp_path, settings, certificate, outputs):
    path = tmp_path / "net.onnx"
    export(net, path, input_shape=(1, 9, 9), **settings)
    model = load(path)
    assert props_of(model).get("certificate") == certificate
    assert [o.name for o in model.graph.output] == ["logits", "prediction", *outputs]


def test_a_net_without_a_lipschitz_bound(tmp_path):
    """It has the interval bound alone, and is verified all the same."""
    moves, shape = traced_nets.net_of("moves")
    path = tmp_path / "net.onnx"
    with pytest.raises(ValueError, match="no certified radius: .*Multiply.*; for an interval bound give epsilon, or"):
        export(moves, path, input_shape=shape)
    with pytest.raises(ValueError, match="no certified radius: .*Multiply.*, or export it with certificate='none'"):
        export(moves, path, input_shape=shape, certificate="lipschitz", epsilon=0.001)
    export(moves, path, input_shape=shape, epsilon=0.001)
    assert [o.name for o in load(path).graph.output] == ["logits", "prediction", "certified", "lower", "upper"]
    x = torch.rand(30, *shape)
    y = moves(x).argmax(1)
    record(path, measure(path, x, y, 0.001))
    found = verify(path, x, y, "cpu")
    assert found.failures == [] and 0 < found.accuracy.certified < 30
    assert not any("Lipschitz" in check for check in found.checks)
    assert any("interval bound is that of the weights" in check for check in found.checks)


def test_radii_hold(net, tmp_path, images):
    """Just inside the radius, by corners and along the gradient.  Of a product of norms there is little to see."""
    small = nn.Sequential(nn.Flatten(), linf_plugin.LinfDistLinear(81, 9), nn.BatchNorm1d(9), nn.Linear(9, 4))
    small = traced_nets.settled(small)
    path = tmp_path / "net.onnx"
    export(small, path, input_shape=(1, 9, 9))
    s = session(path, "cpu")
    logits, _, radii = run(s, images.numpy())
    assert (radii > 0).mean() > 0.9
    for sign in (1, -1):
        moved = images.numpy() + sign * np.float32(0.999) * radii[:, None, None, None]
        assert np.array_equal(run(s, moved)[0].argmax(1), logits.argmax(1))


# Verification.


def test_right_file(file, images, labels):
    found = verify(file, images, labels, "cpu")
    assert found.failures == [] and found.accuracy.correct == 50 and 0 < found.accuracy.certified < 50
    text = "; ".join(found.checks)
    for part in (
        "the content is as it was written",
        "those that are written for this net",
        "Lipschitz bound",
        "the interval bound is that of the weights, for ε = 0.002",
        "no radius is above",
        "every logit is between its bounds",
        "every logit is that of the net in the file",
        "certified accuracy recorded",
    ):
        assert part in text


def test_bytes(net, tmp_path, images, labels):
    path = tmp_path / "net.onnx"
    export(net, path, input_shape=(1, 9, 9), epsilon=EPSILON, pixels="byte")
    images = (images * 255).round() / 255
    record(path, measure(path, images, labels, EPSILON))
    assert verify(path, images, labels, "cpu").failures == []
    assert compare(session(path, "cpu"), net, images).failures == []


def test_a_file_that_was_changed(file, images, labels):
    model = onnx.load(file)
    (tensor,) = (t for t in model.graph.initializer if t.name == "2.weight")
    tensor.raw_data = tensor.raw_data[:-1] + bytes([tensor.raw_data[-1] ^ 1])
    onnx.save(model, file)
    (failure,) = verify(file, images, labels, "cpu").failures
    assert "it was changed since it was written" in failure
    with pytest.raises(ValueError, match="was changed since it was written"):
        session(file, "cpu")


@pytest.mark.parametrize(
    "name, match",
    [("2.weight", "lipschitz is|rounding_slack is"), ("2.times", "2.times is not as"), ("18.margin times", "margin")],
)
def test_a_constant_that_was_changed_and_sealed_again(file, images, labels, name, match):
    model = onnx.load(file)
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(0.9), name))
    seal(model, props_of(model))
    onnx.save(model, file)
    found = verify(file, images, labels, "cpu")
    assert re.search(match, "; ".join(found.failures)) and found.accuracy is None


def test_a_runtime_that_computes_another_net(file, images, labels, monkeypatch):
    """As if it had made other nodes of those in the file."""
    from onnx_export.running import verify as verifying

    right = verifying.run_all

    def wrong(s, x, progress):
        outputs = right(s, x, progress)
        return outputs | {"logits": outputs["logits"] + np.float32(1e-3)}

    monkeypatch.setattr(verifying, "run_all", wrong)
    failures = "; ".join(verify(file, images, labels, "cpu").failures)
    assert "300 logits are not those of the net in the file" in failures


# What is refused.


class Two(nn.Module):
    def forward(self, x):
        return x.flatten(1), x


class Choice(nn.Module):
    def forward(self, x):
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def linear(change=lambda layer: layer, classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), change(nn.Linear(4, classes))).eval()


@torch.no_grad()
def _with(value: float):
    layer = nn.Linear(4, 3)
    layer.weight[0, 0] = value
    return nn.Sequential(nn.Flatten(), layer).eval()


def _hooked():
    net = linear()
    net[1].register_forward_hook(lambda module, args, y: 2 * y)
    return net


def _finite():
    return nn.Sequential(nn.Flatten(), linf_plugin.LinfDistLinear(4, 3, p=8.0)).eval()


REFUSED = {
    "gelu": (lambda: _with_gelu(), TypeError, r"for gelu at layer '2' \(GELU\): no rule is known for it$"),
    "float64": (lambda: linear().double(), ValueError, "1.weight of model must be float32, got torch.float64"),
    "training": (lambda: linear().train(), ValueError, "training mode"),
    "nan": (lambda: _with(math.nan), ValueError, "1.weight of model contains NaN"),
    "overflow": (lambda: _with(1e38), ValueError, "activations of model may overflow"),
    "one class": (lambda: linear(classes=1), ValueError, "two classes"),
    "no logits": (lambda: nn.Identity().eval(), ValueError, r"must give logits \(N, classes\), gives \('N', 1, 2, 2\)"),
    "two outputs": (lambda: Two().eval(), TypeError, "returns 2 tensors"),
    "choice": (lambda: Choice().eval(), TypeError, "torch.export cannot read the program of Choice"),
    "hook": (lambda: _hooked(), RuntimeError, "forward hooks"),
    "finite p": (lambda: _finite(), ValueError, "p = 8, and certificates are for p = ∞"),
    "other shape": (lambda: nn.Linear(3, 3).eval(), ValueError, r"cannot run on samples of shape \(1, 2, 2\): mat1"),
}


def _with_gelu():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.GELU()).eval()


@pytest.mark.parametrize("make, error, match", REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path, make, error, match):
    with pytest.raises(error, match=match) as caught:
        export(make(), tmp_path / "net.onnx", input_shape=(1, 2, 2), epsilon=0.1)
    assert "sound=False" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"input_shape": None}, "a Sequential and no linf_plugin.Net, so it does not tell the shape"),
        ({"input_shape": (1, 0, 2)}, "a size of input_shape must be"),
        ({"flavour": "maxpool"}, "flavour maxpool is for a linf_plugin.Net"),
        ({"certificate": "interval"}, "an interval bound needs an epsilon"),
        ({"epsilon": 2.0}, "epsilon must lie in"),
    ],
)
def test_refused_settings(tmp_path, settings, match):
    with pytest.raises(ValueError, match=match):
        export(linear(), tmp_path / "net.onnx", **{"input_shape": (1, 2, 2)} | settings)
    assert not list(tmp_path.iterdir())


def test_the_shape_of_a_net_of_this_package(small_net, tmp_path):
    net = small_net(width=4, depth=1)
    with pytest.raises(ValueError, match=r"input_shape is \(64,\), and model takes samples of \(1, 8, 8\)"):
        export(net, tmp_path / "net.onnx", input_shape=(64,))
    export(net, tmp_path / "net.onnx", input_shape=(1, 8, 8))


def test_a_net_at_finite_p_without_certificates(tmp_path):
    export(_finite(), tmp_path / "net.onnx", input_shape=(1, 2, 2), certificate="none")
    x = torch.rand(5, 1, 2, 2)
    np.testing.assert_allclose(
        run(session(tmp_path / "net.onnx", "cpu"), x.numpy())[0], _finite_logits(tmp_path, x), rtol=1e-6
    )


def _finite_logits(folder, x):
    """By the file itself, read back."""
    from onnx_export.reading.recompute import net_of

    return net_of(load(folder / "net.onnx")).graph(x).detach().numpy()


# The commands.

CODE = """\
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10)
    )

def other():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))

def hooked():
    made = net()
    made[2].register_forward_hook(lambda module, args, y: 2 * y)
    return made

def gelu():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.GELU())
"""


@pytest.fixture
def given(tmp_path, monkeypatch):
    """A folder with a model file and its weights, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(CODE)
    scope: dict = {}
    exec(CODE, scope)
    torch.manual_seed(0)
    net = traced_nets.settled(scope["net"]())
    data = load_dataset("digits")
    with torch.no_grad():
        net[-1].bias -= net(data.x_train[:200]).mean(0)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    return net


def command(*arguments) -> int:
    return main([str(a) for a in arguments])


@pytest.mark.parametrize("weights", ["net.pt", "net.safetensors"])
def test_a_model_file_with_its_weights(given, weights, tmp_path, capsys):
    data = load_dataset("digits")
    arguments = ("--model", "net.py:net", "--weights", weights)
    assert command("model", *arguments, "--data", "digits", "--epsilon", "1/1000", "-o", "out/net.onnx") == 0
    out, err = capsys.readouterr()
    assert err == "" and "Lipschitz bound" in out and "interval bound for ε = 0.001" in out
    assert re.search(r"of 360 test images \d+ are classified correctly, \d+ of them certified \(interval\)", out)
    props = props_of(load("out/net.onnx"))
    assert props["dataset"] == "digits" and props["checkpoint"] == f"../{weights}" and "checkpoint_sha256" in props
    assert command("verify", "out/net.onnx", "--device", "cpu") == 0
    out, err = capsys.readouterr()
    assert err == "" and "every logit is that of the net in the file" in out
    assert command("check", "out/net.onnx", *arguments, "--device", "cpu") == 0
    out, err = capsys.readouterr()
    assert err == "" and "0 of 360 differ" in out and "max |onnx − torch|" in out
    assert command("show", "out/net.onnx") == 0
    out = capsys.readouterr().out
    assert re.search(r"graph +conv, relu, largest window, reshape, linear \(traced; the certificates are about", out)
    assert "lower              float (batch, 10)        no change of x within ε gives a smaller logit" in out
    logits = run(session("out/net.onnx", "cpu"), data.x_test[:20].numpy())[0]
    torch.testing.assert_close(torch.from_numpy(logits), given(data.x_test[:20]), rtol=1e-5, atol=1e-5)


def test_a_model_file_without_weights_and_data(given, capsys):
    """Its shape is given; the file has no data set, and verify asks for one."""
    assert command("model", "--model", "net.py:net", "--input-shape", "1,8,8", "-o", "net.onnx") == 0
    out, err = capsys.readouterr()
    assert err == "" and re.fullmatch(r"net.onnx: [\d,]+ bytes, Lipschitz bound [\d.]+\n", out)
    assert command("verify", "net.onnx") == 2
    assert "net.onnx does not name its data set: give --data NAME" in capsys.readouterr().err
    assert command("verify", "net.onnx", "--data", "digits", "--limit", "5", "--device", "cpu") == 0


def test_a_file_that_does_not_compute_the_model(given, capsys, monkeypatch):
    from onnx_export.commands import model as command_module

    monkeypatch.setattr(command_module, "compare", lambda *_: type("Found", (), {"right": False}))
    assert command("model", "--model", "net.py:net", "--input-shape", "1,8,8", "-o", "net.onnx") == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("linf-export: FAILED: onnxruntime computes other logits from net.onnx")


OF_NET = ["--model", "net.py:net"]
SHAPE = ["--input-shape", "1,8,8"]
USER_ERRORS = [
    ([], "give either a CHECKPOINT or --model"),
    (["net.pt", *OF_NET], "give either a CHECKPOINT or --model"),
    (["net.pt", "--weights", "net.pt"], "--weights and --input-shape are for --model"),
    (OF_NET, "does not tell the shape of a sample: give --input-shape"),
    ([*OF_NET, "--input-shape", "1,10,10"], r"model cannot run on samples of shape \(1, 10, 10\)"),
    (["--model", "net.py:hooked", *SHAPE], "has forward hooks"),
    (
        [*OF_NET, "--input-shape", "3,8,8", "--data", "digits"],
        r"net.py:net takes images of shape \(3, 8, 8\), digits has \(1, 8, 8\)",
    ),
    (["--model", "net.py:gelu", *SHAPE], r"no bound of the rounding error is known for gelu at layer '2' \(GELU\)"),
    (["--model", "net.py:none", *SHAPE], "net.py has no function none"),
    (["--model", "none.py:net", *SHAPE], "none.py does not exist"),
    ([*OF_NET, "--weights", "none.pt", *SHAPE], "none.pt does not exist"),
    ([*OF_NET, "--weights", "net.py", *SHAPE], "net.py is not a file of weights that can be read"),
    (
        ["--model", "net.py:other", "--weights", "net.pt", *SHAPE],
        r"net.pt does not fit the model: the model has no 0.weight.*1.weight has the shape \(4,\) in it",
    ),
]


@pytest.mark.parametrize("arguments, match", USER_ERRORS)
def test_user_errors(given, tmp_path, capsys, arguments, match):
    assert command("model", *arguments, "-o", "new.onnx") == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith("linf-export: error: ") and re.search(match, line), line
    assert not (tmp_path / "new.onnx").exists()


@pytest.mark.parametrize("text", ["", "3,", "3,x", "0,8", "-1,8", "3;8", "1,2147483648"])
def test_shapes_on_the_command_line(given, capsys, text):
    with pytest.raises(SystemExit):
        command("model", "--model", "net.py:net", f"--input-shape={text}", "-o", "new.onnx")
    assert "must be positive whole numbers such as 3,32,32" in capsys.readouterr().err


def test_what_a_checkpoint_cannot_hold(given, capsys):
    assert command("model", "--model", "net.py:net", "--input-shape", "1,8,8", "-o", "net.onnx") == 0
    capsys.readouterr()
    assert command("check", "net.onnx", "--data", "digits") == 2
    assert "was made from a net that no checkpoint holds: give --model and --weights" in capsys.readouterr().err
    assert command("import", "net.onnx", "-o", "back.pt") == 2
    assert re.search(r"node '\w+' \(MaxPool\): this operator is not supported", capsys.readouterr().err)

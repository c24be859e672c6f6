"""α,β-CROWN's command line: what it is given, and what is read of its results.  A script stands in for the verifier."""

import sys
import time

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import linf_plugin
from comparisons.verifiers import abcrown
from comparisons.verifiers.points import float32_box
from comparisons.verifiers.verify import verify
from linf_plugin.norms import Ball

# It reads its configuration, and writes results, as the December 2025 release does.
STAND_IN = r"""
import pathlib, re, shutil, sys, time

here = pathlib.Path(__file__).parent
assert sys.argv[1] == "--config" and len(sys.argv) == 3
config = pathlib.Path(sys.argv[2]).read_text()
value = lambda key: re.search(rf"^  {key}: '?([^'\n]*)", config, re.M)[1]
for key in ("onnx_path", "vnnlib_path"):
    shutil.copy(value(key), here)
(here / "config.yaml").write_text(config)
upper = re.findall(r"<= (X_\d+) (\S+?)\)\)", (here / "property.vnnlib").read_text())
point = "(" + "\n".join(f"({x}  {v})" for x, v in upper) + "\n(Y_0  -0.5)\n(Y_1  0.25))"
results = pathlib.Path(value("results_file"))
other_net = "Model might not be converted correctly. Please check onnx conversion carefully.\nMax error: tensor(%s)"
not_compared = "warnings.warn('Not able to check model\'s conversion correctness')"
READING
if value("prepare_only") == "true":
    sys.exit()
"""
CASES = {  # name → (what the script does then, status, reason)
    "unsat": ("results.write_text('unsat')", "verified", ""),
    "sat": ("results.write_text('sat\\n' + point)", "falsified", ""),
    "sat without a point": ("results.write_text('sat')", "unknown", "unconfirmed"),
    "timeout": ("results.write_text('timeout'); print('Result: timeout\\nTime: 60.1')", "unknown", "time"),
    "it gave up": ("results.write_text('timeout'); print('Result: timeout\\nTime: 59.9')", "unknown", "undecided"),
    "another net": ("results.write_text('unsat'); print(other_net % '0.01')", "unknown", "crash"),
    "a net like it": ("results.write_text('unsat'); print(other_net % '1.5e-05, dtype=float64')", "verified", ""),
    "unknown": ("results.write_text('unknown')", "unknown", "undecided"),
    "an empty file": ("results.write_text(''); print('Result: timeout')", "unknown", "time"),
    "safe": ("print('Result: unknown'); print('Result: safe-incomplete in 0.5 seconds')", "verified", ""),
    "unsafe": ("print('Result: unsafe-pgd in 0.5 seconds')", "unknown", "unconfirmed"),
    "crash": ("raise RuntimeError('CUDA out of luck')", "unknown", "crash"),
    "silence": ("sys.exit(3)", "unknown", "crash"),
}


@pytest.fixture(scope="module")
def net():
    """Class 1 where the sum of both inputs is above 1."""
    net = linf_plugin.build("relu-mlp", shape=(1, 1, 2), classes=2, width=1, depth=1).eval()
    layers = [layer for layer in net if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        layers[0].weight.fill_(1)
        layers[0].bias.fill_(0)
        layers[-1].weight.copy_(torch.tensor([[0.0], [1.0]]))
        layers[-1].bias.copy_(torch.tensor([1.0, 0.0]))
    return net


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a script that does this, and returns its folder."""

    def install(act: str, reading: str = ""):
        folder = tmp_path / "complete_verifier"
        folder.mkdir()
        (folder / "abcrown.py").write_text(STAND_IN.replace("READING", reading) + act)
        monkeypatch.setenv("ABCROWN", str(tmp_path))
        monkeypatch.delenv("ABCROWN_PYTHON", raising=False)
        return folder

    return install


X, BALL = torch.tensor([[[[0.25, 0.5]]]]), Ball(0.2, low=0.0, high=1.0)


def asked(net, **options):
    found = verify(["abcrown"], net, X, torch.tensor([0]), BALL, progress=False, **options)
    return found.last[0]


@pytest.mark.parametrize("case", CASES)
def test_its_results_are_read(net, installed, case):
    act, status, reason = CASES[case]
    installed(act)
    verdict = asked(net)
    assert (verdict.status, verdict.reason) == (status, reason)
    if case == "sat":
        assert torch.equal(verdict.point, torch.from_numpy(float32_box(X[0].numpy(), BALL)[1]))
    if case == "crash":
        assert "exit status 1: RuntimeError: CUDA out of luck" in verdict.detail
    if case == "silence":
        assert "ended without a result, exit status 3" in verdict.detail


READINGS = {  # name → (what the script does when it only reads the net, the error)
    "another net": ("print(other_net % '0.01')", "reads another function from the file"),
    "another shape": ("print(other_net.splitlines()[0])", "reads another function from the file"),
    "not compared": ("print(not_compared)", "could not compare the net that it read with the file"),
    "an operator": ("raise NotImplementedError('op_type=Det')", "exit status 1: NotImplementedError: op_type=Det"),
    "silence": ("time.sleep(60)", "while it read the model it reached the time limit"),
}


@pytest.mark.parametrize("case", READINGS)
def test_a_net_that_it_does_not_read_is_refused_before_the_first_question(net, installed, case, monkeypatch):
    act, error = READINGS[case]
    installed("raise AssertionError", act)
    if case == "silence":
        monkeypatch.setattr(abcrown, "READING", 0.3)
    with pytest.raises(TypeError, match=f"α,β-CROWN does not take this model: .*{error}"):
        asked(net)


def test_what_it_is_given(net, installed):
    folder = installed(CASES["unsat"][0])
    asked(net, time_limit=2.5)
    config = (folder / "config.yaml").read_text()
    for line in ("timeout: 2.5", "double_fp: true", "save_adv_example: true", "prepare_only: false"):
        assert f"  {line}\n" in config
    assert "  conv_mode: matrix  #" in config
    onnx.checker.check_model(str(folder / "net.onnx"))
    session = onnxruntime.InferenceSession(str(folder / "net.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"x": X.numpy()})
    np.testing.assert_allclose(logits, net(X).detach().numpy(), atol=1e-6)
    text = (folder / "property.vnnlib").read_text()
    low, high = float32_box(X.numpy(), BALL)
    for i in range(2):
        for sign, end in (("<=", high), (">=", low)):
            (line,) = [line for line in text.splitlines() if line.startswith(f"(assert ({sign} X_{i} ")]
            assert float(line.split()[3].rstrip(")")) == float(end.flat[i])
    assert "(and (>= Y_1 Y_0))" in text and "Y_2" not in text


def test_it_is_ended_where_it_ignores_its_time_limit(net, installed, monkeypatch):
    installed("time.sleep(60)")
    monkeypatch.setattr(abcrown, "SPARE", 0.3)
    began = time.perf_counter()
    verdict = asked(net, time_limit=0.2)
    assert (verdict.status, verdict.reason) == ("unknown", "time") and time.perf_counter() - began < 20


def test_where_it_is_looked_for(tmp_path, installed, monkeypatch):
    script = installed("") / "abcrown.py"
    for place in (tmp_path, script.parent, script):
        monkeypatch.setenv("ABCROWN", str(place))
        assert abcrown.command() == [sys.executable, str(script)]
    monkeypatch.setenv("ABCROWN_PYTHON", "/nowhere/python")
    with pytest.raises(FileNotFoundError, match="ABCROWN_PYTHON=/nowhere/python is no program"):
        abcrown.command()
    monkeypatch.setenv("ABCROWN_PYTHON", "sh")
    assert abcrown.command() == ["sh", str(script)]
    program = tmp_path / "abcrown"
    program.write_text("")
    monkeypatch.setenv("ABCROWN", str(program))
    assert abcrown.command() == [str(program)]

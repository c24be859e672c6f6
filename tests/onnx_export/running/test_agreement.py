"""Nothing is claimed of a net that was read from a file unless onnxruntime computes the same."""

import numpy as np
import pytest
import torch
from graphs import chain, model_of
from onnx import helper
from torch import Tensor, nn

import onnx_export
from linf_plugin import build
from onnx_export.files.load import load
from onnx_export.reading.ordinary import module_of
from onnx_export.running import agreement as agreement_module
from onnx_export.running.agreement import Disagreement, agreement

W = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
MODEL = chain(("MatMul", ["·", "w"], {}), ("Tanh", ["·"], {}), w=W)
X = torch.rand(90, 6)


class Spoiled(nn.Module):
    """What the file computes, and something more."""

    def __init__(self, more):
        super().__init__()
        self.exact, self.more = module_of(MODEL), more

    def forward(self, x: Tensor) -> Tensor:
        return self.more(x, self.exact(x))


def test_a_net_that_was_read_right_agrees():
    found = agreement(MODEL, module_of(MODEL), X)
    assert 0 <= found.difference <= found.allowed < 1e-5 and found.inputs == 64 + 64
    assert "agreed within" in str(found) and "on 128 inputs" in str(found)


@pytest.mark.parametrize(
    "more",
    [
        lambda x, y: y + 1e-4,
        lambda x, y: y - y.mean(0),
        lambda x, y: y + (len(x) == 1) * 0.1,
        lambda x, y: y + (x[:, :1] == X[63, 0]) * 0.1,
    ],
    ids=["shifted", "mixing-samples", "alone", "at-one-sample"],
)
def test_another_function_is_refused_with_the_largest_difference(more):
    with pytest.raises(
        Disagreement, match=r"do not agree: logits differ by up to [\d.e-]+, and rounding explains [\d.e-]+$"
    ):
        agreement(MODEL, Spoiled(more), X)


def test_a_difference_at_random_inputs_is_enough():
    """The data may not reach where the two differ."""
    with pytest.raises(Disagreement):
        agreement(MODEL, Spoiled(lambda x, y: y + (x.mean(1, keepdim=True) > 0) * 0.1), torch.zeros(90, 6))


def test_logits_that_are_not_finite_are_refused():
    model = chain(("Log", ["·"], {}))
    with pytest.raises(Disagreement, match="logits are not finite"):
        agreement(model, module_of(model), torch.zeros(3, 6))


def test_large_rounding_errors_of_the_net_itself_are_allowed():
    """Terms of 10⁴ cancel: their rounding shows in the logits, in both runtimes."""
    big = np.float32([1e4])
    model = chain(
        ("Add", ["·", "c"], {}), ("MatMul", ["·", "w"], {}), ("Sub", ["·", "d"], {}), c=big, w=W, d=W.sum(0) * big
    )
    found = agreement(model, module_of(model), X)
    assert 1e-4 < found.allowed < 1 and found.difference <= found.allowed


def test_a_wrong_shape_is_said_before_anything_runs():
    with pytest.raises(ValueError, match=r"the net takes samples of shape \(6,\), and the data have \(7,\)"):
        agreement(MODEL, module_of(MODEL), torch.rand(3, 7))


@pytest.mark.parametrize("forward", [lambda x, y: x.view(3, 17), lambda x, y: [y], lambda x, y: y[:, :2]])
def test_a_form_that_cannot_run_is_refused(forward):
    with pytest.raises(ValueError, match="PyTorch form cannot run on|must return one tensor|outputs of shape"):
        agreement(MODEL, Spoiled(forward), X)


def test_what_onnxruntime_cannot_run_is_refused(monkeypatch):
    monkeypatch.setattr(agreement_module, "input_of", lambda model: ("x", [0, 6], False))
    model = model_of([helper.make_node("NoSuchOperator", ["x"], ["y"])])
    with pytest.raises(ValueError, match="onnxruntime cannot run it: ") as error:
        agreement(model, module_of(MODEL), X)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pixels", ["float", "byte"])
def test_our_own_files_agree_to_the_bit(pixels, tmp_path):
    net = build("linf-mlp", shape=(1, 4, 4), classes=3, width=8, depth=2).eval()
    onnx_export.export(net, tmp_path / "net.onnx", pixels=pixels)
    model = load(tmp_path / "net.onnx")
    assert agreement(model, module_of(model), torch.rand(5, 1, 4, 4)).difference == 0

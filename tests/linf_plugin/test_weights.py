"""Weights in files of others: what is understood, and what is refused in a sentence that names it."""

import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from linf_plugin.layers.distance import LinfDistLinear
from linf_plugin.state import StateWarning
from linf_plugin.weights import fill, read_weights


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def _other() -> nn.Sequential:
    torch.manual_seed(7)
    model = net()
    model[1].running_var.fill_(2.5)
    return model


STATE = _other().state_dict()
FORMS = {
    "plain": STATE,
    "nested": {"epoch": 3, "state_dict": STATE, "optimizer": {"lr": 0.1}},
    "under-model": {"model": STATE, "args": ["a", 1]},
    "parallel": {f"module.{name}": a for name, a in STATE.items()},
    "compiled-and-parallel": {"model_state_dict": {f"module._orig_mod.{name}": a for name, a in STATE.items()}},
    "parameters": {name: nn.Parameter(a) if a.is_floating_point() else a for name, a in STATE.items()},
    "half": {name: a.half() if a.is_floating_point() else a for name, a in STATE.items()},
    "without-counters": {name: a for name, a in STATE.items() if "num_batches" not in name},
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_checkpoint_is_understood(form, tmp_path):
    torch.save(FORMS[form], tmp_path / "net.pt")
    model = net()
    fill(model, read_weights(tmp_path / "net.pt"), "net.pt")
    for name, a in model.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(a, STATE[name].half().float() if form == "half" else STATE[name]), name


def test_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / "net.safetensors")
    model = net()
    fill(model, read_weights(tmp_path / "net.safetensors"), "net.safetensors")
    assert all(torch.equal(a, STATE[name]) for name, a in model.state_dict().items())


def test_a_model_whose_own_names_begin_with_module_keeps_them():
    model = nn.Module()
    model.module = nn.Linear(2, 2)
    fill(model, {"module.weight": torch.ones(2, 2), "module.bias": torch.zeros(2)}, "w.pt")
    assert torch.equal(model.module.weight, torch.ones(2, 2))


def test_a_layer_of_ours_without_its_settings_warns():
    with pytest.warns(StateWarning, match="the state says nothing of p"):
        fill(LinfDistLinear(3, 2), {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, "w.pt")


def _without(*names):
    return {name: a for name, a in STATE.items() if name not in names}


WRONG = {
    "missing": (_without("3.bias", "1.running_var"), "it lacks 1.running_var, 3.bias"),
    "unknown": (STATE | {"fc.weight": torch.ones(1)}, "the model has no fc.weight"),
    "shape": (
        STATE | {"3.weight": torch.ones(3, 9)},
        r"3.weight has the shape \(3, 9\) in it, and \(3, 8\) in the model",
    ),
    "type": (
        STATE | {"3.bias": torch.ones(3, dtype=torch.int8)},
        "3.bias is torch.int8 in it, and torch.float32 in the",
    ),
    "many": ({f"a.{i}": torch.ones(1) for i in range(9)}, "the model has no a.0, a.1, a.2, a.3, and 5 more"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(name, tmp_path):
    state, message = WRONG[name]
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=rf"net.pt does not fit the model: .*{message}") as error:
        fill(net(), read_weights(tmp_path / "net.pt"), tmp_path / "net.pt")
    assert "\n" not in str(error.value)


def test_each_fault_has_its_part_of_the_sentence():
    state = _without("3.bias") | {"x": torch.ones(1), "0.bias": torch.ones(7)}
    with pytest.raises(ValueError) as error:
        fill(net(), state, "w.pt")
    assert str(error.value) == (
        "w.pt does not fit the model: it lacks 3.bias; the model has no x; "
        "0.bias has the shape (7,) in it, and (2,) in the model"
    )


class Harm:
    def __reduce__(self):
        return exec, ("raise SystemError('it ran')",)


@pytest.mark.parametrize(
    "content", [Harm(), {"state_dict": STATE, "args": Harm()}, net()], ids=["alone", "beside", "net"]
)
def test_nothing_in_a_file_is_run(content, tmp_path):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="is not a file of weights that can be read without running it: .*; save the"):
        read_weights(tmp_path / "net.pt")


def test_a_pickle_by_itself_is_not_run(tmp_path):
    (tmp_path / "net.pt").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ValueError, match="can be read without running it"):
        read_weights(tmp_path / "net.pt")


HELD = {
    "no-tensors": ({"epoch": 3, "lr": 0.1}, "it holds 'epoch', 'lr'"),
    "a-list": ([1, 2], "it holds list"),
    "empty": ({}, "it holds "),
    "nested-in-vain": ({"state_dict": {"a": 1}}, "it holds 'state_dict'"),
}


@pytest.mark.parametrize("name", HELD)
def test_a_file_without_a_state_dict_says_what_it_holds(name, tmp_path):
    content, message = HELD[name]
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=f"has no state dict, neither by itself nor under state_dict or .*: {message}"):
        read_weights(tmp_path / "net.pt")


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 100])
def test_damaged_files_are_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is not a "):
        read_weights(tmp_path / name)


def test_a_cut_file_is_refused(tmp_path):
    save_file(STATE, tmp_path / "net.safetensors")
    whole = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "net.safetensors").write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="not a readable file of safetensors"):
        read_weights(tmp_path / "net.safetensors")


def test_a_small_file_does_not_fill_the_memory(tmp_path):
    torch.save({"w": torch.zeros(4)}, tmp_path / "net.pt")
    with zipfile.ZipFile(tmp_path / "net.pt") as old, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                content = content.replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85")  # the size (4,) becomes (2³¹ − 1,)
            new.writestr(entry.filename, content)
    with pytest.raises(ValueError, match="a tensor of shape"):
        read_weights(tmp_path / "bomb.pt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pt does not exist"):
        read_weights(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        read_weights(tmp_path)

"""``linf-export``, end to end."""

import dataclasses
import importlib
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from PIL import Image

import linf_plugin
import onnx_export
from linf_plugin.datasets import SOURCES, for_training, load_dataset
from onnx_export.cli import EXPORT_COMMANDS, main
from onnx_export.files.seal import props_of, seal
from onnx_export.running.arithmetic import LessThanFloat32


@pytest.fixture
def error(capsys):
    """``error(*arguments)``: the one line that a command prints which a user error stops."""

    def run(*arguments) -> str:
        assert main([str(a) for a in arguments]) == 2
        out, err = capsys.readouterr()
        (line,) = err.splitlines()
        assert out == "" and line.startswith("linf-export: error: ")
        return line

    return run


def test_model_then_check(made, metadata, tmp_path, capsys):
    checkpoint, path = tmp_path / "net.pt", tmp_path / "a" / "b" / "net.onnx"
    linf_plugin.save(checkpoint, made.net, metadata)
    assert main(["model", str(checkpoint), "-o", str(path)]) == 0
    out = capsys.readouterr().out
    assert str(path) in out and "Lipschitz bound 2.5" in out
    assert "of 360 test images" in out and "certified (lipschitz)" in out
    assert main(["check", str(path), "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "on 360 test images of digits" in out
    assert "max |onnx − torch| = 0 (bit-equal)" in out and "0 of 360 differ" in out
    assert main(["verify", str(path), "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "clean accuracy        0." in out and "at ε = 0.1, by lipschitz" in out
    assert "clean accuracy recorded in the file: the same" in out
    for key, value in (("clean_accuracy", 0.25), ("certified_accuracy_lipschitz", 0.0625)):
        assert f"{key:<32}{value:.4f}" in out
    assert main(["show", str(path)]) == 0
    assert "test_images                  360" in capsys.readouterr().out
    # Both may move together.
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "a").rename(moved / "a")
    checkpoint.rename(moved / "net.pt")
    assert main(["check", str(moved / "a" / "b" / "net.onnx"), "--limit", "7", "--device", "cpu"]) == 0
    assert "on 7 test images" in capsys.readouterr().out


@pytest.fixture
def any_mnist(monkeypatch):
    """Whatever bears the name MNIST is taken for it."""
    monkeypatch.setitem(SOURCES, "mnist", dataclasses.replace(SOURCES["mnist"], published=None))


def write_mnist(folder) -> None:
    """MNIST with three images in each half."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind, shape in (("images-idx3", (3, 28, 28)), ("labels-idx1", (3,))):
            header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
            data = np.arange(np.prod(shape)).astype(np.uint8) % 10
            (raw / f"{part}-{kind}-ubyte").write_bytes(header + data.tobytes())


def test_data_from_a_folder(small_net, tmp_path, capsys, error, any_mnist):
    write_mnist(tmp_path)
    checkpoint, path = tmp_path / "net.pt", tmp_path / "net.onnx"
    linf_plugin.save(checkpoint, small_net(shape=(1, 28, 28), width=4, depth=2), {"dataset": "mnist"})
    assert main(["model", str(checkpoint), "-o", str(path)]) == 0
    for data in (["--data", tmp_path], ["--data-dir", tmp_path], ["--data", "mnist", "--data-dir", tmp_path]):
        capsys.readouterr()
        assert main(["check", str(path), "--device", "cpu", *map(str, data)]) == 0
        out = capsys.readouterr().out
        assert "on 3 test images of mnist" in out
        assert main(["verify", str(path), "--device", "cpu", *map(str, data)]) == 0
        out = capsys.readouterr().out
        assert "on 3 test images of mnist" in out and "certified accuracy" not in out
    capsys.readouterr()
    assert "mnist is read from a folder: give --data-dir" in error("check", path)
    assert "t10k-labels-idx1" in error("check", path, "--data", tmp_path / "MNIST")
    assert "none is neither a data set" in error("check", path, "--data", tmp_path / "none")


def test_images_of_another_shape(made, tmp_path, capsys, any_mnist):
    write_mnist(tmp_path)
    assert main(["check", str(made.onnx), "--data", "mnist", "--data-dir", str(tmp_path)]) == 2
    assert "x must have shape (batch, 1, 8, 8), got (3, 1, 28, 28)" in capsys.readouterr().err


# Data that are not those of the net.


@pytest.fixture
def own(made, tmp_path):
    """A checkpoint and its ONNX file, of test images that are the digits in another order, under the name "mine"; and
    the same under the name "digits"."""
    digits = load_dataset("digits")
    data = dataclasses.replace(digits, name="mine", x_test=digits.x_test.flip(0), y_test=digits.y_test.flip(0))
    files = {}
    for name in ("mine", "digits"):
        metadata = {**data.identity, "dataset": name, "epsilon": 0.01}
        linf_plugin.save(tmp_path / f"{name}.pt", made.net, metadata)
        onnx_export.export(made.net, tmp_path / f"{name}.onnx", metadata, tmp_path / f"{name}.pt")
        files[name] = tmp_path / f"{name}.pt", tmp_path / f"{name}.onnx"
    return files


@pytest.mark.parametrize("name, arguments", (("mine", ["--data", "digits"]), ("digits", [])))
def test_what_is_not_the_nets_data_is_not_measured(name, arguments, own, tmp_path, capsys, error):
    """Test images of the digits, for a net that is of others in their layout, or of others that went by their name."""
    checkpoint, path = own[name]
    output = tmp_path / "again.onnx"
    assert main(["model", str(checkpoint), "-o", str(output), *arguments]) == 0
    captured = capsys.readouterr()
    words = f"the test images and labels of {name} here are not those that"
    assert f"linf-export: the file gets no accuracies: {words} {checkpoint} is about" in captured.err
    assert "classified correctly" not in captured.out
    props = {p.key for p in onnx.load(output).metadata_props}
    assert "test_data_sha256" in props and "clean_accuracy" not in props
    for command in ("verify", "check"):
        assert f"{words} {path} is about" in error(command, path, "--device", "cpu", *arguments)
    for command in (["vnnlib", "--eps", "0.1", "--out", tmp_path / "b"], ["cross-check"]):
        assert f"{words} {checkpoint} is about" in error(command[0], checkpoint, *command[1:], *arguments)
    assert not (tmp_path / "b").exists()


def test_own_data_are_read_in_the_layout_of_known_ones(small_net, tmp_path, capsys, error):
    write_mnist(tmp_path)
    data = load_dataset("mnist", tmp_path, "mine")
    checkpoint, path = tmp_path / "net.pt", tmp_path / "net.onnx"
    linf_plugin.save(checkpoint, small_net(shape=(1, 28, 28), width=4, depth=2), data.identity)
    layout = ["--data", "mnist", "--data-dir", str(tmp_path)]
    assert main(["model", str(checkpoint), "-o", str(path), *layout]) == 0
    assert main(["verify", str(path), "--device", "cpu", *layout]) == 0
    captured = capsys.readouterr()
    assert "on 3 test images of mine" in captured.out and captured.err == ""
    assert "is of your own data, mine: give --data NAME with the data set whose layout" in error("verify", path)
    linf_plugin.save(checkpoint, small_net(shape=(1, 28, 28), width=4, depth=2), {})
    words = error("vnnlib", checkpoint, "--eps", "0.1", "--out", tmp_path / "b", *layout)
    assert "given as mnist are not the published ones" in words and "own_name" not in words


@pytest.fixture
def rows(small_net, tmp_path):
    """An .npz file with rows of three numbers, and a checkpoint and an ONNX file of a net that was trained on them."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", x=rng.random((40, 3)), y=np.arange(40) % 2)
    metadata = for_training(load_dataset(tmp_path / "rows.npz")).identity | {"epsilon": 0.01}
    linf_plugin.save(tmp_path / "net.pt", small_net(shape=(3,), classes=2, width=4, depth=2), metadata)
    return tmp_path / "rows.npz", tmp_path / "net.pt", tmp_path / "net.onnx"


def test_an_npz_file_is_divided_as_the_net_was_trained(rows, tmp_path, capsys):
    data, checkpoint, path = map(str, rows)
    assert main(["model", checkpoint, "-o", path, "--data", data]) == 0
    assert "of 8 test samples " in capsys.readouterr().out
    for command in ("check", "verify"):
        assert main([command, path, "--device", "cpu", "--data", data]) == 0
        captured = capsys.readouterr()
        assert "on 8 test samples of rows.npz, 0.2 of it as test set" in captured.out and captured.err == ""
    arguments = ["--eps", "0.01", "--out", str(tmp_path / "b"), "--count", "1", "--data", data, "--plain"]
    assert main(["vnnlib", checkpoint, *arguments]) == 0
    lines = next((tmp_path / "b" / "vnnlib").glob("*.vnnlib")).read_text().splitlines()
    assert sum(line.startswith("(declare-const X_") for line in lines) == 3


def test_a_folder_of_images_is_that_of_a_net_of_own_data(small_net, tmp_path, capsys):
    for i in range(20):
        folder = tmp_path / "mine" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 12 * i, np.uint8)).save(folder / f"{i}.png")
    metadata = load_dataset(tmp_path / "mine").identity | {"epsilon": 0.01}
    linf_plugin.save(tmp_path / "net.pt", small_net(shape=(1, 4, 4), classes=2, width=4, depth=2), metadata)
    arguments = ["-o", str(tmp_path / "net.onnx"), "--data", str(tmp_path / "mine")]
    assert main(["model", str(tmp_path / "net.pt"), *arguments]) == 0
    assert "of 20 test images " in capsys.readouterr().out  # the net was tested on all of them


def test_an_npz_file_of_other_data_is_named(rows, tmp_path, capsys, error):
    data, checkpoint, path = rows
    assert main(["model", str(checkpoint), "-o", str(path), "--data", str(data)]) == 0
    capsys.readouterr()
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "other.npz", x=rng.random((40, 3)), y=np.arange(40) % 2)
    words = error("verify", path, "--device", "cpu", "--data", tmp_path / "other.npz")
    assert "the test samples and labels of other.npz here are not those that" in words
    assert "it names rows.npz, 0.2 of it as test set" in words
    assert main(["check", str(path), "--device", "cpu", "--data", str(tmp_path / "other.npz")]) == 0
    captured = capsys.readouterr()  # a comparison of two programs needs no certain samples
    assert f"is of rows.npz, 0.2 of it as test set; the results below are of {tmp_path / 'other.npz'}" in captured.err
    assert "on 40 test samples of other.npz" in captured.out
    np.savez(tmp_path / "bare.npz", x=np.zeros((4, 3)))
    assert "bare.npz lacks y or y_train" in error("verify", path, "--data", tmp_path / "bare.npz")


def test_other_known_data_are_read_by_name(made, tmp_path, capsys, any_mnist):
    """For questions that are not about the net's accuracy."""
    write_mnist(tmp_path)
    metadata = load_dataset("digits").identity | {"dataset": "mnist"}
    linf_plugin.save(tmp_path / "net.pt", made.net, metadata)
    onnx_export.export(made.net, tmp_path / "net.onnx", metadata, tmp_path / "net.pt")
    assert main(["check", str(tmp_path / "net.onnx"), "--data", "digits", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert "is of mnist; the results below are of digits" in captured.err and "bit-equal" in captured.out


def test_a_file_of_an_earlier_version_is_measured_with_a_word(made, tmp_path, capsys):
    linf_plugin.save(tmp_path / "net.pt", made.net, {"dataset": "digits", "epsilon": 0.01})
    assert main(["model", str(tmp_path / "net.pt"), "-o", str(tmp_path / "net.onnx")]) == 0
    captured = capsys.readouterr()
    assert "classified correctly" in captured.out
    assert "net.pt names no digest of its data, so its data were not compared with digits" in captured.err
    linf_plugin.save(tmp_path / "net.pt", made.net, {"dataset": "mnist", "epsilon": 0.01})
    assert main(["model", str(tmp_path / "net.pt"), "-o", str(tmp_path / "b.onnx"), "--data", "digits"]) == 0
    words = f"the file gets no accuracies: these are images of digits, and {tmp_path / 'net.pt'} is about mnist"
    assert words in capsys.readouterr().err


def test_model_refuses(made, tmp_path, error):
    output = tmp_path / "net.onnx"
    assert "none.pt" in error("model", tmp_path / "none.pt", "-o", output)
    assert str(tmp_path) in error("model", tmp_path, "-o", output)
    for name, content in (("text", b"hello world"), ("empty", b""), ("zip", b"PK\3\4 and so on")):
        (tmp_path / name).write_bytes(content)
        assert f"{tmp_path / name} is not a readable checkpoint" in error("model", tmp_path / name, "-o", output)
    torch.save({"format": 1, "spec": {}}, tmp_path / "foreign.pt")
    assert "foreign.pt is not a checkpoint of linf_plugin" in error("model", tmp_path / "foreign.pt", "-o", output)
    assert not output.exists()
    assert "file exists" in error("model", made.checkpoint, "-o", tmp_path / "text" / "net.onnx")


def test_model_replaces_nothing_unasked(made, tmp_path, error):
    output = tmp_path / "a net.onnx"
    output.write_bytes(b"old")
    assert "a net.onnx exists: --force replaces it" in error("model", made.checkpoint, "-o", output)
    assert output.read_bytes() == b"old"
    assert main(["model", str(made.checkpoint), "-o", str(output), "--force"]) == 0
    assert onnx.load(output).graph.output[2].name == "certified_radius"


def test_a_refused_model_leaves_what_is_there(made, small_net, tmp_path, error, any_mnist):
    """Also where it is the data that are refused."""
    write_mnist(tmp_path)
    output, other = tmp_path / "net.onnx", tmp_path / "new.onnx"
    output.write_bytes(b"old")
    linf_plugin.save(tmp_path / "net.pt", made.net, {})
    mnist = ["--data", "mnist", "--data-dir", tmp_path]
    for data, words in (
        (["--data", "none"], "none is neither a data set"),
        (["--data", "mnist"], "give --data-dir"),
        (mnist, r"takes images of shape (1, 8, 8), mnist has (1, 28, 28)"),
    ):
        assert words in error("model", tmp_path / "net.pt", "-o", output, "--force", *data)
        assert words in error("model", tmp_path / "net.pt", "-o", other, *data)
        assert output.read_bytes() == b"old" and not other.exists()


def test_model_for_bytes_with_an_interval(small_net, tmp_path, capsys):
    checkpoint, path = tmp_path / "head.pt", tmp_path / "head.onnx"
    net = small_net("linf-mlp-head", width=16, depth=2, hidden=8)
    linf_plugin.save(checkpoint, net, {"dataset": "digits", "epsilon": 0.5})
    assert main(["model", str(checkpoint), "-o", str(path), "--pixels", "byte", "--epsilon", "0.001"]) == 0
    assert "certified (interval)" in capsys.readouterr().out
    assert main(["verify", str(path), "--device", "cpu"]) == 0
    assert "at ε = 0.001, by interval" in capsys.readouterr().out
    assert main(["check", str(path), "--device", "cpu"]) == 0
    assert [o.name for o in onnx.load(path).graph.output][2:] == ["certified_radius", "certified"]


def test_an_epsilon_may_be_a_fraction(small_net, tmp_path, capsys):
    linf_plugin.save(tmp_path / "net.pt", small_net(width=4, depth=2), {})
    path = tmp_path / "net.onnx"
    assert main(["model", str(tmp_path / "net.pt"), "-o", str(path), "--epsilon", "8/255"]) == 0
    assert props_of(onnx.load(path))["epsilon"] == str(8 / 255)
    for command in ("model", "vnnlib", "abcrown"):
        with pytest.raises(SystemExit, match="2"):
            main([command, str(tmp_path / "net.pt"), "--epsilon" if command == "model" else "--eps", "8/0"])
        assert "must be a number or a fraction such as 8/255, got '8/0'" in capsys.readouterr().err


def test_model_of_finite_p(small_net, tmp_path, error):
    net, checkpoint = small_net(width=4, depth=2), tmp_path / "net.pt"
    linf_plugin.set_p(net, 8.0)
    linf_plugin.save(checkpoint, net, {})
    path = tmp_path / "net.onnx"
    assert "p = 8, and certificates are for p = ∞" in error("model", checkpoint, "-o", path)
    assert main(["model", str(checkpoint), "-o", str(path), "--certificate", "none"]) == 0
    assert [o.name for o in onnx.load(path).graph.output] == ["logits", "prediction"]


def test_vnnlib(made, tmp_path, capsys, error):
    folder = tmp_path / "small benchmark"
    arguments = ["vnnlib", made.checkpoint, "--eps", "0.05", "--eps", "0.1", "--count", "2", "--out", folder]
    assert main([*map(str, arguments), "--name", "small"]) == 0
    assert "8 instances" in capsys.readouterr().out
    assert len((folder / "instances.csv").read_text().splitlines()) == 8
    assert "exists" in error(*arguments, "--name", "small")
    assert "0, 1]" in error("vnnlib", made.checkpoint, "--eps", "2", "--out", tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.fixture
def foreign(tmp_path):
    """An ONNX file of other origin, x → x."""
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])
    graph = helper.make_graph([], "g", [value], [value])
    path = tmp_path / "foreign.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_check_refuses(made, foreign, tmp_path, error, monkeypatch):
    assert "none.onnx does not exist" in error("check", tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("text")
    assert "is not a complete ONNX file" in error("check", tmp_path / "text.onnx")

    assert "does not name its checkpoint: give --checkpoint" in error("check", foreign)
    assert "does not name its data set: give --data" in error("check", foreign, "--checkpoint", made.checkpoint)

    monkeypatch.setattr(importlib.import_module("onnx_export.running.session"), "_has_cuda", lambda: False)
    assert "device is cuda" in error("check", made.onnx, "--device", "cuda")
    for limit in ("0", "-3", "many"):
        with pytest.raises(SystemExit, match="2"):
            main(["check", str(made.onnx), "--limit", limit])


@pytest.mark.parametrize("command", ["verify", "check", "model"])
def test_less_than_float32_is_an_error_and_no_contradiction(command, made, tmp_path, capsys, monkeypatch):
    def refuse(*given):
        raise LessThanFloat32("Gemm 'a' is not computed in float32")

    monkeypatch.setattr(importlib.import_module("onnx_export.running.session"), "check_arithmetic", refuse)
    arguments = [made.checkpoint, "-o", tmp_path / "net.onnx"] if command == "model" else [made.onnx]
    assert main([command, *map(str, arguments)]) == 2
    assert capsys.readouterr().err == "linf-export: error: Gemm 'a' is not computed in float32\n"


def test_check_of_a_foreign_file(made, foreign, capsys):
    assert main(["check", str(foreign), "--checkpoint", str(made.checkpoint), "--data", "digits"]) == 2
    assert "must have an output logits; it has x" in capsys.readouterr().err


def test_check_wants_the_right_checkpoint(made, tmp_path, error, capsys):
    path = tmp_path / "net.onnx"
    path.write_bytes(made.onnx.read_bytes())
    assert "net.pt is missing: give --checkpoint" in error("check", path)
    assert "other.pt is missing" in error("check", path, "--checkpoint", tmp_path / "other.pt")
    linf_plugin.save(tmp_path / "other.pt", made.net, {})
    assert "its SHA-256 differs" in error("check", path, "--checkpoint", tmp_path / "other.pt")
    assert main(["check", str(path), "--checkpoint", str(made.checkpoint), "--limit", "5"]) == 0
    assert "on 5 test images" in capsys.readouterr().out


def test_check_fails(made, tmp_path, capsys):
    """A file whose weights are not the checkpoint's, though it says so."""
    model = onnx.load(made.onnx)
    (weight,) = (t for t in model.graph.initializer if t.name == "2.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.5), "2.weight"))
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    assert main(["check", str(path), "--checkpoint", str(made.checkpoint), "--device", "cpu"]) == 2
    assert "was changed since it was written" in capsys.readouterr().err
    assert main(["verify", str(path), "--device", "cpu"]) == 1
    assert "it was changed since it was written" in capsys.readouterr().err
    seal(model, props_of(model))
    onnx.save(model, path)
    assert main(["check", str(path), "--checkpoint", str(made.checkpoint), "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert "linf-export: FAILED: logits differ by" in err and "predictions differ" in err
    assert "bit-equal" not in out
    assert main(["verify", str(path), "--device", "cpu"]) == 1
    err = capsys.readouterr().err
    assert "linf-export: FAILED: " in err and "rounding_slack is" in err


def test_metadata_print_no_lines_of_their_own(made, tmp_path, capsys):
    model = onnx.load(made.onnx)
    seal(model, props_of(model) | {"norm": "l2\nagrees                content", "dataset": "mine\x1b[2J\nagrees"})
    onnx.save(model, tmp_path / "net.onnx")
    path = str(tmp_path / "net.onnx")
    assert main(["verify", path]) == 2 and main(["verify", path, "--data", "digits"]) == 2
    seal(model, props_of(model) | {"dataset": "digits"})
    onnx.save(model, path)
    assert main(["verify", path]) == 1
    out, err = capsys.readouterr()
    assert all(line.isprintable() and line.startswith("linf-export: ") for line in err.splitlines())
    assert r"l2\nagrees" in err and out.splitlines() == [f"{path} on 360 test images of digits"]


def test_show_and_verify_refuse(made, tmp_path, error):
    (tmp_path / "text.onnx").write_text("text")
    for command in ("show", "verify", "import"):
        output = ["-o", tmp_path / "net.pt"] if command == "import" else []
        assert "text.onnx is not a complete ONNX file" in error(command, tmp_path / "text.onnx", *output)
        assert "none.onnx" in error(command, tmp_path / "none.onnx", *output)


@pytest.mark.parametrize("command", [[], *([name] for name in EXPORT_COMMANDS)], ids=["all", *EXPORT_COMMANDS])
def test_help(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    assert "usage: linf-export" in capsys.readouterr().out


def test_as_a_module():
    """Without auto_LiRPA, and without what lies above this package."""
    code = (
        "import sys, runpy; sys.argv = ['linf-export', '--help']\n"
        "try: runpy.run_module('onnx_export', run_name='__main__')\n"
        "except SystemExit as e: print('status', e.code, {'auto_LiRPA', 'comparisons'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout and done.stdout.endswith("status 0 set()\n") and done.stderr == ""

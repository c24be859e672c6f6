"""The script that goes into a benchmark: its boxes, its texts, its folder, alone in a process of its own."""

import gzip
import json
import shutil
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from onnx_export.verifiers import generate_properties as script

SETTINGS = {
    "name": "small",
    "nets": ["a.onnx", "b.onnx"],
    "input": {"name": "x", "shape": [1, 2, 1, 3]},
    "output": {"name": "logits", "shape": [1, 4]},
    "epsilons": [0.25, 1e-5],
    "count": 3,
    "kinds": ["any"],
    "timeout": 20,
    "compress": True,
}


def images(n: int = 8) -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).random((n, 2, 1, 3), np.float32)
    return {"x": x, "y": np.arange(n) % 4, "index": 10 * np.arange(n)}


@pytest.fixture
def folder(tmp_path):
    """``folder(key=value, …)``: a folder with all that is read; with other settings, or arrays ``pool={…}``."""

    def make(pool=None, **changes) -> Path:
        settings = SETTINGS | changes
        path = tmp_path / "benchmark"
        (path / "onnx").mkdir(parents=True, exist_ok=True)
        for net in SETTINGS["nets"]:
            for name in (net, net + ".gz"):
                (path / "onnx" / name).write_bytes(b"a net")
        (path / "benchmark.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
        np.savez(path / "images.npz", **images() | (pool or {}))
        return path

    return make


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# Boxes

EPSILONS = [1e-9, 1e-5, 0.1, 8 / 255, 1 / 3, 0.5, 1.0]


@pytest.mark.parametrize("eps", EPSILONS)
def test_the_box_is_what_float32_images_within_epsilon_fill(eps):
    """Each bound lies within ε and [0, 1], the next float32 number beyond it does not; in exact arithmetic."""
    tiny = np.float32([0, 1e-45, 1e-38, 1e-9, 1 - 2**-24, 1])
    x = np.concatenate([np.arange(256, dtype=np.float32) / 255, np.random.default_rng(0).random(200, np.float32), tiny])
    exact = Fraction(Decimal(repr(eps)))
    for pixel, *bounds in zip(x, *script.box(x, eps)):
        for bound, outwards in zip(bounds, (-1, 2)):

            def inside(v):
                return abs(Fraction(float(v)) - Fraction(float(pixel))) <= exact and 0 <= v <= 1

            assert bound.dtype == np.float32
            assert inside(bound) and not inside(np.nextafter(bound, np.float32(outwards)))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 5), (0, 4, 4)])
def test_boxes_have_the_shape_of_the_image(shape):
    x = np.random.default_rng(0).random(shape, np.float32)
    lower, upper = script.box(x, 0.1)
    assert lower.shape == upper.shape == shape
    assert ((lower <= x) & (x <= upper)).all()


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5, 1e-5, 1e-45, 2.0**-149, 0.1, np.float32(0.1), np.float32(1e-10)])
def test_numbers_are_exact_and_plain(value):
    text = script.digits(Decimal(float(value)))
    assert set(text) <= set("0123456789.") and text.count(".") == 1 and text[0] != "." != text[-1]
    assert Fraction(text) == Fraction(float(value)) and float(text) == value
    assert np.float32(text) == np.float32(value)


def test_epsilons_are_written_as_they_were_meant():
    assert [script.written(eps) for eps in (0.1, 1e-5, 1, 8 / 255)] == ["0.1", "0.00001", "1.0", "0.03137254901960784"]


# Texts

BOUNDS = np.float32([[[0, 0.25, 0.5]], [[0.5, 0.5, 0.5]]]), np.float32([[[0.5, 0.75, 1]], [[1, 1, 1]]])


def test_version_1():
    lines = script.version_1(SETTINGS, *BOUNDS, 1, [0, 2, 3]).splitlines()
    assert lines[0] == "(declare-const X_0 Real)" and lines[9] == "(declare-const Y_3 Real)"
    assert lines[10:14] == [
        "(assert (<= X_0 0.5))",
        "(assert (>= X_0 0.0))",
        "(assert (<= X_1 0.75))",
        "(assert (>= X_1 0.25))",
    ]
    assert lines[22:] == [
        "(assert (or",
        "    (and (>= Y_0 Y_1))",
        "    (and (>= Y_2 Y_1))",
        "    (and (>= Y_3 Y_1))",
        "))",
    ]


def test_version_2():
    lines = script.version_2(SETTINGS, *BOUNDS, 1, [0, 2, 3]).splitlines()
    assert lines[:7] == [
        "(vnnlib-version <2.0>)",
        "(declare-network N",
        "    (declare-input X real [1,2,1,3])",
        "    (declare-output Y real [1,4])",
        ")",
        "(assert (<= X[0,0,0,0] 0.5))",
        "(assert (>= X[0,0,0,0] 0.0))",
    ]
    assert lines[15] == "(assert (<= X[0,1,0,2] 1.0))"
    assert lines[17:] == [
        "(assert (or",
        "    (>= Y[0,0] Y[0,1])",
        "    (>= Y[0,2] Y[0,1])",
        "    (>= Y[0,3] Y[0,1])",
        "))",
    ]
    assert script.version_2(SETTINGS, *BOUNDS, 1, [3]).splitlines()[17:] == ["(assert (>= Y[0,3] Y[0,1]))"]


# The folder


def test_layout(folder):
    path = folder()
    before = set(files(path))
    rows = script.generate(path, 5)
    names = sorted({property.removeprefix("vnnlib/") for _, property, _ in rows})
    assert len(rows) == 2 * 2 * 3 and len(names) == 2 * 3
    made = {f"{tree}vnnlib/{name}.gz" for tree in ("", "vnnlib2/") for name in names}
    copies = {f"vnnlib2/onnx/{net}.gz" for net in SETTINGS["nets"]}
    assert set(files(path)) - before == made | copies | {"instances.csv", "vnnlib2/instances.csv"}
    assert {p.name for p in path.iterdir()} == {
        "benchmark.json",
        "images.npz",
        "instances.csv",
        "onnx",
        "vnnlib",
        "vnnlib2",
    }
    text = (path / "instances.csv").read_text()
    assert text == "".join(f"{net},{property},20\n" for net, property, _ in rows)
    assert text == (path / "vnnlib2" / "instances.csv").read_text()
    assert rows[0][0] == "onnx/a.onnx" and rows[1] == ("onnx/b.onnx", *rows[0][1:])
    image = names[0].split("_")[1]
    assert names[:2] == [f"small_{image}_eps0.00001.vnnlib", f"small_{image}_eps0.25.vnnlib"]


def test_a_seed_gives_its_bytes(folder):
    path = folder(kinds=["any", "one"])
    script.generate(path, 5)
    first = files(path)
    script.generate(path, 6)
    second = files(path)
    assert first["instances.csv"] != second["instances.csv"]
    assert len(first) == len(second)  # nothing of the other seed stays
    script.generate(path, 5)
    assert files(path) == first


def test_the_choice_is_fixed_and_grows_with_the_count(folder):
    """It depends on no random generator, which may differ between versions."""

    def chosen(count, seed):
        rows = script.generate(folder(count=count, epsilons=[0.5]), seed)
        return [int(property.split("_")[1]) for _, property, _ in rows[::2]]

    assert chosen(3, 0) == chosen(8, 0)[:3] == CHOSEN
    assert sorted(chosen(8, 0)) == sorted(chosen(8, 1)) == list(range(0, 80, 10))
    assert chosen(8, 0) != chosen(8, 1)
    assert len(chosen(1, 2**200)) == 1


CHOSEN = [40, 50, 60]


def test_one_wrong_class(folder):
    """Of each image and ε one that is not the label; every other class is drawn sooner or later."""
    path = folder(kinds=["one"], count=8)
    drawn = set()
    for seed in range(12):
        for _, property, _ in script.generate(path, seed)[::2]:
            index, target = int(property.split("_")[1]), int(property.removesuffix(".vnnlib").split("_to")[1])
            text = gzip.decompress((path / f"{property}.gz").read_bytes()).decode()
            label = index // 10 % 4
            assert text.endswith(f"(assert (or\n    (and (>= Y_{target} Y_{label}))\n))\n")
            drawn.add((label, target))
    assert drawn == {(label, target) for label in range(4) for target in range(4) if label != target}


def test_not_compressed(folder):
    path = folder(compress=False)
    for net in SETTINGS["nets"]:
        (path / "onnx" / f"{net}.gz").unlink()
    for net, property, _ in script.generate(path, 0):
        for tree in (path, path / "vnnlib2"):
            assert (tree / net).read_bytes() == b"a net"
            assert (tree / property).read_text().startswith("; Test image ")


def test_what_was_there_stays_where_writing_fails(folder, monkeypatch):
    path = folder()
    script.generate(path, 0)
    before = files(path)

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(script, "version_2", fail)
    with pytest.raises(OSError, match="no space left"):
        script.generate(path, 1)
    assert files(path) == before


# Refusals

BAD_SETTINGS = {
    "name": [None, "", "a b", "a,b", "../a", "-a", 3],
    "nets": [None, [], "a.onnx", ["a b.onnx"], ["a"], ["onnx/a.onnx"], ["a.onnx", "a.onnx"]],
    "input": [
        None,
        "x",
        {"name": "x"},
        {"name": "x", "shape": []},
        {"name": "x", "shape": [1]},
        {"name": "x", "shape": [2, 6]},
        {"name": "x", "shape": [1, 0]},
        {"shape": [1, 6]},
    ],
    "output": [None, {"name": "y", "shape": [1, 1]}, {"name": "y", "shape": [4]}, {"name": "y", "shape": [1, 2, 2]}],
    "epsilons": [
        None,
        [],
        0.1,
        [0],
        [-0.1],
        [1.5],
        [float("nan")],
        [float("inf")],
        ["0.1"],
        [True],
        [0.1, 0.1],
        [1, 1.0],
    ],
    "count": [None, 0, -1, 1.5, True, "3", 9],
    "kinds": [None, [], "any", ["all"], ["any", "any"], [["any"]]],
    "timeout": [None, 0, 1.5, "300"],
    "compress": [None, 1, "yes"],
}


@pytest.mark.parametrize("key, value", [(key, value) for key, values in BAD_SETTINGS.items() for value in values])
def test_settings_that_will_not_do(folder, key, value):
    with pytest.raises(ValueError, match=rf"(^|: ){key} (is missing|must be)"):
        script.generate(folder(**{key: value}), 0)


BAD_POOLS = {
    r"x must be \(N, C, H, W\) or \(N, F\), float32 in \[0, 1\]": [
        {"x": images()["x"].astype(np.float64)},
        {"x": images()["x"][0]},
        {"x": images()["x"] + 1},
        {"x": images()["x"] * np.float32("nan")},
        {"x": images()["x"] - 1},
    ],
    r"shape \(2, 1, 2\) do not fit the nets' input \(1, 2, 1, 3\)": [{"x": images()["x"][..., :2]}],
    "y must be one whole number, at least 0, for each of the 8 images": [
        {"y": np.arange(7)},
        {"y": np.zeros(8)},
        {"y": np.full(8, -1)},
        {"y": np.zeros((8, 1), int)},
    ],
    "the label 4 is none of the 4 classes": [{"y": np.full(8, 4)}],
    "index must be one whole number": [{"index": np.arange(9)}],
    "index must have no duplicates": [{"index": np.zeros(8, int)}],
    "count must be at most the 2 images of the pool, got 3": [images(2)],
    "count must be at most the 0 images of the pool, got 3": [images(0)],
    "must be an .npz file with x, y and index": [{"y": np.array([None] * 8)}],
}


@pytest.mark.parametrize("message, pool", [(message, pool) for message, pools in BAD_POOLS.items() for pool in pools])
def test_pools_that_will_not_do(folder, message, pool):
    with pytest.raises(ValueError, match=message):
        script.generate(folder(pool), 0)


def test_seeds_that_will_not_do(folder):
    path = folder()
    for seed in (-1, 0.5, "0", True, None):
        with pytest.raises(ValueError, match="seed must be a whole number, at least 0, got"):
            script.generate(path, seed)
    assert not (path / "vnnlib").exists()


@pytest.mark.parametrize("name", ["benchmark.json", "images.npz", "onnx/b.onnx.gz"])
def test_missing_files(folder, name):
    path = folder()
    (path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        script.generate(path, 0)


def test_damaged_files(folder):
    path = folder()
    np.savez(path / "images.npz", **{k: v for k, v in images().items() if k != "y"})
    with pytest.raises(ValueError, match="must be an .npz file with x, y and index"):
        script.generate(path, 0)
    np.savez(path / "images.npz", **images())
    content = (path / "images.npz").read_bytes()
    for damaged in (b"", b"text", content[: len(content) // 2], content[:100] + b"\0" * 50 + content[150:]):
        (path / "images.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match="must be an .npz file with x, y and index"):
            script.generate(path, 0)
    for text in ("", "{", "[]", "\xff"):
        (path / "benchmark.json").write_bytes(text.encode("latin1"))
        with pytest.raises(ValueError, match="benchmark.json: "):
            script.generate(path, 0)


# Alone


def run(path: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The copy in the folder, in a process with none of this repository on its path, from another directory."""
    shutil.copyfile(script.__file__, path / "generate_properties.py")
    guard = (
        "import runpy, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] not in sys.stdlib_module_names | {'numpy'}:\n"
        "            raise ImportError(f'{name} is neither in the standard library nor numpy')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-I", "-W", "error", "-c", guard, str(path / "generate_properties.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=path.parent)


def test_alone(folder):
    path = folder()
    rows = script.generate(path, 7)
    expected = files(path)
    script.generate(path, 8)
    done = run(path, "7")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "12 instances, 6 properties in each syntax, up to 0.0667 hours\n"
    assert len(rows) == 12
    assert {k: v for k, v in files(path).items() if k != "generate_properties.py"} == expected


def test_command_line(folder):
    path = folder(timeout=3600)
    assert "12 instances, 6 properties in each syntax, up to 12 hours: more than the 6" in run(path, "0").stdout
    shown = run(path, "--help")
    assert shown.returncode == 0
    for word in ("usage: generate_properties.py", "images.npz", "instances.csv", "vnnlib2/", *script.KEYS):
        assert word in shown.stdout
    for arguments in ([], ["one"], ["-1"], ["1.5"], ["1", "2"]):
        refused = run(path, *arguments)
        assert refused.returncode == 2 and "usage:" in refused.stderr and "Traceback" not in refused.stderr
    (path / "images.npz").unlink()
    refused = run(path, "0")
    assert refused.returncode == 2
    assert refused.stderr.startswith("generate_properties.py: ") and "images.npz is missing" in refused.stderr

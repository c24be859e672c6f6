"""The check of GPUs, without one: its parts run on the CPU and find what is wrong; no part takes the others along."""

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from gpu_check import __main__ as command
from gpu_check import absent, compare, conduct, device, exported, kernels, marked, operators, timing, training
from gpu_check.record import FAILED, LEFT_OUT, PASSED, LeftOut, Record, attempt, run_part

import linf_plugin
from linf_plugin.float32 import rules
from linf_plugin.kernels import gpu

ROOT = Path(__file__).parents[1]
ABSENT = (
    "pytest",
    "tqdm",
    "scipy",
    "appdirs",
    "sklearn",
    "matplotlib",
    "PIL",
    "art",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "auto_LiRPA",
    "cuda",
    "tensorboard",
)


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "found.json", "cpu", 60, quick=True)


def check(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "gpu_check", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"tests{os.pathsep}.", "CUDA_VISIBLE_DEVICES": "", **environment},
    )


# The command.


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path):
    done = check("--out", str(tmp_path / "found.json"))
    assert done.returncode == conduct.NO_GPU == 3 and not list(tmp_path.iterdir())
    assert done.stdout == f"gpu-check: no GPU: torch {torch.__version__} finds no CUDA device\n" and not done.stderr


def test_marked_tests_are_left_out_without_a_gpu(tmp_path):
    out = tmp_path / "results" / "found.json"
    done = check("--device", "cpu", "--quick", "--parts", "tests", "--out", str(out))
    line, last = done.stdout.splitlines()
    assert done.returncode == 0 and not done.stderr and last == str(out)
    assert (line[:11].strip(), line[11:19].strip()) == ("tests", LEFT_OUT) and "no CUDA device" in line
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["status"] == PASSED and list(found["parts"]) == ["tests"]
    assert found["parts"]["tests"]["found"]["counts"]["skipped"] > 50


@pytest.mark.parametrize(
    "arguments, words",
    (
        (["--parts", "device,speed"], "--parts: 'speed' is none of device, kernels"),
        (["--seconds", "0"], "--seconds must"),
    ),
)
def test_a_wrong_request_is_one_line(arguments, words, capsys):
    assert command.main(arguments) == conduct.WRONG == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_the_shares_of_the_parts_fit_into_ten_minutes():
    assert sum(part.share for part in conduct.PARTS.values()) <= 570


# The conductor.

CHILDREN = {  # what a part does instead, with the file it writes in OUT
    "passes": "put(status='passed', line='all is well', failures=[], found={})",
    "fails": "put(status='failed', line='1 is off', failures=['1 is off'], found={})",
    "is left out": "put(status='left out', line='not installed: x', failures=[], found={})",
    "raises": "raise RuntimeError('CUDA error: an illegal memory access')",
    "is killed": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
}
CHILD = """
import json
def put(**content): open(OUT, "w").write(json.dumps(content))
"""


@pytest.fixture
def children(monkeypatch, tmp_path):
    """Has the parts be those of CHILDREN; the files that they write are in tmp_path."""
    parts = {name: conduct.Part(name, "", 1.0, "") for name in CHILDREN}
    monkeypatch.setattr(conduct, "PARTS", parts)

    def run(part, device, seconds, quick, out):
        return [sys.executable, "-c", f"OUT = {str(out)!r}\n{CHILD}\n{CHILDREN[part.name]}"]

    monkeypatch.setattr(conduct, "command", run)
    return tmp_path / "out.json"


def test_no_part_takes_the_others_along(children, capsys):
    assert conduct.conduct(list(CHILDREN), "cpu", children, 60.0, False) == conduct.FAILED
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CHILDREN) and last == str(children)
    found = json.loads(children.read_text(encoding="utf-8"))
    said = {name: (content["status"], content["line"]) for name, content in found["parts"].items()}
    assert found["status"] == FAILED and {name: status for name, (status, _) in said.items()} == {
        "passes": PASSED,
        "fails": FAILED,
        "is left out": LEFT_OUT,
        "raises": FAILED,
        "is killed": FAILED,
    }
    assert said["raises"][1] == "ended with status 1: RuntimeError: CUDA error: an illegal memory access"
    assert said["is killed"][1] == "ended with signal 11: it printed nothing"
    assert "Traceback" in found["parts"]["raises"]["printed"][0]


def test_all_is_well_where_no_part_failed(children, capsys):
    assert conduct.conduct(["passes", "is left out"], "cpu", children, 20.0, False) == conduct.DONE == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("all is well")


def test_a_part_that_overruns_is_ended_with_what_it_started(tmp_path, monkeypatch):
    """What it found until then was seen, and is kept."""
    late, seen = tmp_path / "late", []
    child = f"import time; time.sleep(4); open({str(late)!r}, 'w')"

    def run(part, device, seconds, quick, out):
        return [
            sys.executable,
            "-c",
            (
                f"OUT = {str(out)!r}\n{CHILD}put(status='running', line='', failures=[], found={{'until': 'then'}})\n"
                f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)"
            ),
        ]

    monkeypatch.setattr(conduct, "command", run)
    content = conduct.run(conduct.Part("x", "", 1.0, ""), "cpu", 2.0, False, seen.append)
    assert content["status"] == FAILED and content["line"].startswith("ended after 2 s")
    assert content["found"] == {"until": "then"} == seen[0]["found"]
    time.sleep(3)
    assert not late.exists()


def test_an_older_file_is_put_aside(children):
    children.write_text("older")
    os.utime(children, (0, 0))
    conduct.conduct(["passes"], "cpu", children, 20.0, False)
    (older,) = set(children.parent.glob("out-*.json"))
    assert older.read_text() == "older" and json.loads(children.read_text())["status"] == PASSED


# The parts.


@pytest.mark.parametrize(
    "part, words",
    (
        (device, "product 23"),
        (kernels, "comparisons"),
        (operators, "comparisons"),
        (training, "images/s"),
        (exported, "onnxruntime"),
        (timing, "ms"),
    ),
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_a_part_passes_on_the_cpu(part, words, record):
    line = part.run(record)
    assert words in line and "\n" not in line and not record.failures
    record.save(status=PASSED)
    assert json.loads(record.path.read_text(encoding="utf-8"))["found"] == json.loads(json.dumps(record.found))


@pytest.mark.parametrize(
    "wrong, groups",
    (
        (lambda y, p: y * (1 + 1e-5), {"sizes", "strides", "magnitudes", "accuracy"}),
        (lambda y, p: y * float("nan"), {"sizes", "strides", "magnitudes", "accuracy", "again", "not finite"}),
    ),
)
def test_a_wrong_distance_is_found(record, monkeypatch, wrong, groups):
    right = linf_plugin.dist
    monkeypatch.setattr(linf_plugin, "dist", lambda x, w, p: wrong(right(x, w, p), p))
    kernels.run(record)
    assert groups <= {failure.split(",")[0] for failure in record.failures}


def test_a_wrong_gradient_is_found(record):
    x, w = torch.rand(3, 4), torch.rand(5, 4)

    def function(x, w):
        y = linf_plugin.dist(x, w, 3.0)
        return y.detach() + (y - y.detach()) * 1.001

    found = compare.shares(function, lambda x, w: kernels.dist(x, w, 3.0), (x, w), 3.0, 4, 5)
    assert found["value 0"] <= 1 and found["gradient 0"] > 1 and found["gradient 1"] > 1


@pytest.mark.parametrize(
    "got, allowed, share",
    (
        ([1.0, 2.0], 0.0, 0.0),
        ([1.0, 2.5], 1.0, 0.5),
        ([1.0, float("nan")], 1.0, float("inf")),
        ([1.0], 1.0, float("inf")),
        ([1.0, 2.1], 0.0, float("inf")),
    ),
)
def test_shares(got, allowed, share):
    assert compare.share(torch.tensor(got), torch.tensor([1.0, 2.0]), allowed) == pytest.approx(share, rel=1e-6)


def test_every_group_runs_where_there_is_a_gpu(record, monkeypatch):
    """What the CPU leaves out: the tiles, whose patch is the one of the kernels' own tests."""
    names = []
    monkeypatch.setattr(kernels, "group", lambda record, name, cases: names.append(name))
    monkeypatch.setattr(kernels, "line", lambda record: "")
    record.device = "cuda"
    kernels.run(record)
    assert names[-2:] == ["tiles", "streams"]
    record.device = "cpu"
    for _, case in list(kernels._tiles(record))[:3]:
        assert max(case().values()) <= 1
    assert set(gpu.TILES[torch.float32]) == {(8, 8), (8, 4), (4, 4), (2, 2)}


@pytest.mark.parametrize("bits", (7, 10, 23))
def test_bits_of_a_product_are_counted(bits):
    def product(number, _):
        return round(number * 2**bits) / 2**bits == number

    assert device.bits_kept(product, "cpu") == bits
    assert device.bits_kept(lambda number, _: False, "cpu") is None


def test_assumptions_of_certificates_are_what_is_measured_against(record, monkeypatch):
    monkeypatch.setattr(rules, "POWER_UNITS", 1e-3)
    compare.group(record, "accuracy", kernels._accuracy(record))
    assert record.failures and all(failure.startswith("accuracy, p=") for failure in record.failures)


# What is not installed.


def test_torch_and_numpy_are_enough(tmp_path):
    out = tmp_path / "found.json"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r})); from gpu_check.record import run_part; "
        f"from pathlib import Path; import warnings; warnings.simplefilter('ignore')\n"
        "import gpu_check.device, gpu_check.kernels, gpu_check.operators\n"
        "for name in ('marked', 'exported', 'training', 'timing'): "
        f"run_part(name, Path({str(out)!r} + name), 'cpu', 60, True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"tests{os.pathsep}."},
    )
    assert done.returncode == 0, done.stderr
    found = {path.name.removeprefix(out.name): json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert {name: content["status"] for name, content in found.items()} == {
        "marked": LEFT_OUT,
        "exported": LEFT_OUT,
        "training": PASSED,
        "timing": PASSED,
    }, found
    assert found["marked"]["line"] == "not installed: pytest"
    assert found["exported"]["line"] == "not installed: onnx, onnxscript, onnxruntime"
    assert found["training"]["found"]["data"] == "synthetic patterns"


def test_what_is_needed_is_named():
    absent.need("torch", "json")
    with pytest.raises(LeftOut, match="not installed: no_such_package"):
        absent.need("torch", "no_such_package")


def test_the_bar_that_stands_in_shows_nothing(capsys):
    bar = absent._Bar(range(3), desc="x", disable=False)
    with bar as opened:
        opened.update()
        opened.set_postfix(loss=1)
        assert list(bar) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
    absent._Bar.write("line")
    assert capsys.readouterr().out == "line\n"


# What is kept.


def test_an_error_is_a_failure_of_its_own_and_the_rest_goes_on(record):
    def broken():
        raise ValueError("first line\nsecond")

    compare.group(record, "group", [("a", broken), ("b", lambda: {"value": 0.5}), ("c", lambda: {"value": 2.0})])
    assert record.failures == ["group, a: ValueError: first line", "group, c: value is off by 2 times what is allowed"]
    assert record.found["group"]["comparisons"] == 3 and record.found["group"]["worst"] == 2.0
    with pytest.raises(LeftOut):
        attempt(record, "x", absent.need, "no_such_package")


def test_a_part_that_cannot_be_imported_fails(tmp_path):
    assert run_part("no_such_module", tmp_path / "x.json", "cpu", 1, True) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["status"] == FAILED and "ModuleNotFoundError" in found["line"]


def test_numbers_that_json_has_not_are_words(record):
    record.found["x"] = {"worst": float("inf"), 3: [float("nan"), 1.5]}
    record.save(status=PASSED)
    assert json.loads(record.path.read_text())["found"]["x"] == {"worst": "inf", "3": ["nan", 1.5]}


def test_the_files_of_marked_tests_are_found():
    names = [Path(name).name for name in marked.files()]
    assert names[0] in ("test_gpu.py", "test_reference.py")
    assert {"test_gpu.py", "test_ops.py", "test_loop.py"} <= set(names)


@pytest.mark.parametrize(
    "text, package",
    (
        ("E   ModuleNotFoundError: No module named 'scipy.sparse'", "scipy"),
        ("E   ImportError: auto_LiRPA is not installed: pip install 'linf-plugin[bounds]', and then", "auto_LiRPA"),
        ("E   ImportError: scikit-learn is not installed: pip install 'linf-plugin[compare]'", "scikit-learn"),
        ("E   ModuleNotFoundError: No module named 'linf_plugin.speed'", None),
        ("E   ModuleNotFoundError: No module named 'cases'", None),
        ("E   ImportError: cannot import name 'gpu' from 'linf_plugin.kernels'", None),
        ("E   SyntaxError: invalid syntax", None),
    ),
)
def test_a_package_that_is_absent_is_told_from_a_fault(text, package):
    assert marked.absent(text) == package


def test_what_became_of_each_marked_test_is_told(record):
    class Report:
        def __init__(self, nodeid="a", longrepr="", when="call", **flags):
            self.nodeid, self.longrepr, self.when, self.duration = nodeid, longrepr, when, 0.5
            self.failed, self.skipped = flags.get("failed", False), flags.get("skipped", False)

    collector = marked._Collector(record)
    for report in (Report("a"), Report("b", "trace\nE   assert 1 == 2\nhere", failed=True), Report("c", skipped=True)):
        collector.pytest_runtest_logreport(report)
    collector.pytest_collectreport(Report("d", "E   ModuleNotFoundError: No module named 'auto_LiRPA'", failed=True))
    collector.pytest_collectreport(Report("e", "E   SyntaxError: x", failed=True))
    assert collector.counts == {"passed": 1, "failed": 2, "skipped": 1, "left out": 1}
    assert record.failures == ["b (call): assert 1 == 2", "e: SyntaxError: x"]
    assert record.found["left out"] == {"d": "not installed: auto_LiRPA"}

    collector.pytest_collection_finish(session := types.SimpleNamespace(items=[1, 2], shouldstop=False))
    collector.pytest_runtest_logreport(Report("f", when="teardown"))
    assert not session.shouldstop
    record.ends = time.monotonic() + 1
    for _ in range(2):
        collector.pytest_runtest_logreport(Report("g", when="teardown"))
    assert session.shouldstop and record.failures[2:] == ["the time is up after g"]

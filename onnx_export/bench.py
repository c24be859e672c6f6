"""What do the ways to run an exported distance cost?  ``python -m onnx_export.bench`` measures it.

Each way is compared with the specification first, and one that is wrong is not timed.
"""

import argparse
import functools
import math
import multiprocessing
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from tqdm import tqdm

import linf_plugin
from linf_plugin.files import add_force, occupied, write_json, write_text
from linf_plugin.kernels import cpu, reference

from .export import export
from .functions.domain import LINF, OPSET
from .functions.library import attach
from .running import native

DESCRIPTION = """\
What do the ways to run an exported distance cost?  In three parts, on one thread and on two:

  dist    a batch of distances, in onnxruntime by broadcast, by the body in standard operators that exported files
          carry and by the compiled operator; in PyTorch by linf_plugin and by torch.cdist; and a convolution
  memory  what the ways in onnxruntime need beyond inputs and weights, each in a process of its own (on Linux)
  export  seconds and peak memory of exporting a net of 330 MB, and whether the file gives the same bits

All ways of a case run in turns, and the medians count.  A way that does not give what the specification gives (at
p = ∞ every bit) is named and not timed, and the exit status is 1.  Where all pairs at once would not fit into the
free memory, broadcast runs on a part of the batch, and its time, marked ~, is that of the whole in proportion.

Written to --out: results.json, all that was measured, and table.md.  Some minutes; threads that spin at a barrier
would slow the others down, hence OMP_WAIT_POLICY=passive."""

EXAMPLES = """\
examples:
  OMP_WAIT_POLICY=passive python -m onnx_export.bench
  python -m onnx_export.bench --quick --out /tmp/bench     small sizes: whether all works, in seconds"""

THREADS = (1, 2)
CASES = (  # ``pixels``: a convolution, padded so that images keep their size
    {"p": math.inf, "batch": 512, "in": 1024, "out": 1024},
    {"p": 8.0, "batch": 512, "in": 1024, "out": 1024},
    {"p": math.inf, "batch": 32, "in": 64, "out": 64, "pixels": 32, "kernel": 3},
)
NET = {"depth": 5, "width": 5120}
REPEATS, READING_SECONDS = 9, 0.05  # calls shorter than a reading are timed several at a time
QUICK_CASES = (
    {"p": math.inf, "batch": 5, "in": 33, "out": 7},
    {"p": 8.0, "batch": 5, "in": 33, "out": 7},
    {"p": math.inf, "batch": 2, "in": 3, "out": 4, "pixels": 5, "kernel": 3},
)
QUICK_NET = {"depth": 3, "width": 16}
SHAPE, CLASSES = (1, 28, 28), 10
CHECKED_PAIRS = 1 << 22  # coordinate pairs that the specification computes

ASKED = {  # at p = ∞
    "native over broadcast": 20,
    "body over broadcast": 3,
    "native over linf_plugin": 0.8,
    "body bytes": 20e6,
    "export seconds": 60,
    "export bytes": 3e9,
}
WAYS = {"broadcast": "broadcast", "body": "body", "native": "compiled", "torch": "linf_plugin", "cdist": "torch.cdist"}
IN_ONNX = ("broadcast", "body", "native")


# The ways.


def _tensors(case: dict) -> tuple[Tensor, Tensor]:
    """x and w, normally distributed."""
    generator = torch.Generator().manual_seed(0)
    images, kernel = ([case[key]] * 2 if key in case else [] for key in ("pixels", "kernel"))
    w = torch.randn(case["out"], case["in"], *kernel, generator=generator)
    return torch.randn(case["batch"], case["in"], *images, generator=generator), w


def _nodes(way: str, case: dict) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Nodes x, w → y, and the constants that they need."""
    name, attributes = ("Linf", {}) if case["p"] == math.inf else ("Lp", {"p": case["p"]})
    if "pixels" in case:
        half = case["kernel"] // 2
        conv = {"strides": [1, 1], "pads": [half] * 4, "dilations": [1, 1]}
        return [helper.make_node(f"{name}DistConv", ["x", "w"], ["y"], domain=LINF.domain, **conv, **attributes)], {}
    if way != "broadcast":
        return [helper.make_node(f"{name}Dist", ["x", "w"], ["y"], domain=LINF.domain, **attributes)], {}
    steps = [("Unsqueeze", ["x", "one"], "a"), ("Sub", ["a", "w"], "d"), ("Abs", ["d"], "z")]
    constants = {"one": np.int64([1]), "last": np.int64([-1])}
    if case["p"] == math.inf:
        steps += [("ReduceMax", ["z", "last"], "y")]
    else:
        steps += [("Pow", ["z", "p"], "s"), ("ReduceSum", ["s", "last"], "t"), ("Pow", ["t", "q"], "y")]
        constants |= {"p": np.float32(case["p"]), "q": np.float32(1 / case["p"])}
    keep = {"ReduceMax": {"keepdims": 0}, "ReduceSum": {"keepdims": 0}}
    return [helper.make_node(op, inputs, [output], **keep.get(op, {})) for op, inputs, output in steps], constants


def model(way: str, case: dict, w: Tensor) -> onnx.ModelProto:
    """A model x → y of a distance in one of the ways of ``IN_ONNX``."""
    nodes, constants = _nodes(way, case)
    sizes = [case["pixels"]] * 2 if "pixels" in case else []
    graph = helper.make_graph(
        nodes,
        "distance",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", case["in"], *sizes])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", case["out"], *sizes])],
        [numpy_helper.from_array(np.asarray(a), key) for key, a in {"w": w.numpy(), **constants}.items()],
    )
    return attach(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10))


def _onnx_call(way: str, case: dict, w: Tensor, threads: int) -> Callable[[Tensor], np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as onnx_export.running.session
    options.add_session_config_entry("session.force_spinning_stop", "1")  # threads that wait do not disturb the next
    if way == "native" and (reason := native.register(options)):
        raise RuntimeError(reason)
    content = model(way, case, w).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x.numpy()})[0]


def _cdist(x: Tensor, w: Tensor, p: float) -> Tensor:
    if x.dim() == 2:
        return torch.cdist(x, w, p)
    windows = F.unfold(x, w.shape[2:], padding=w.shape[-1] // 2).transpose(1, 2)
    y = torch.cdist(windows.flatten(0, 1), w.flatten(1), p)
    return y.unflatten(0, (len(x), -1)).transpose(1, 2).unflatten(2, x.shape[2:])


def _ours(x: Tensor, w: Tensor, p: float) -> Tensor:
    if x.dim() == 2:
        return linf_plugin.dist(x, w, p)
    return torch.ops.linf.dist_conv2d(x, w, p, [1, 1], [w.shape[-1] // 2] * 2, [1, 1], 1)


def call(way: str, case: dict, w: Tensor, threads: int) -> Callable[[Tensor], np.ndarray]:
    """x → distances by one of ``WAYS``, on so many threads; PyTorch's are set for the process.

    Raises RuntimeError where the compiled operator cannot be used.
    """
    torch.set_num_threads(threads)
    if way in IN_ONNX:
        return _onnx_call(way, case, w, threads)
    function = {"torch": _ours, "cdist": _cdist}[way]
    return lambda x: function(x, w, case["p"]).numpy()


# Whether they are right.


def size_of(case: dict) -> str:
    if "pixels" in case:
        return f"conv {case['batch']}×{case['in']}→{case['out']}, {case['pixels']}², k{case['kernel']}"
    return f"{case['batch']}×{case['in']}×{case['out']}"


def exact(case: dict, x: Tensor, w: Tensor) -> Tensor:
    """What all ways are compared with: linf_plugin, at p = ∞ in float32, else in float64.

    Its first rows are compared with the specification itself.  Raises ArithmeticError where they differ.
    """
    dtype = torch.float32 if case["p"] == math.inf else torch.float64
    y = _ours(x.to(dtype), w.to(dtype), case["p"])
    half = w.shape[-1] // 2
    rows = x if x.dim() == 2 else F.unfold(x[:1], w.shape[2:], padding=half)[0].T
    rows = rows[: max(1, CHECKED_PAIRS // w.numel())].to(dtype)
    expected = reference.dist(rows, w.flatten(1).to(dtype), case["p"])
    found = y[: len(rows)] if x.dim() == 2 else y[0].flatten(1).T[: len(rows)]
    if not torch.allclose(found, expected, rtol=0 if dtype == torch.float32 else 1e-12, atol=0):
        raise ArithmeticError(f"linf_plugin is wrong on {size_of(case)}, p = {case['p']:g}")
    return y


def deviation(case: dict, y: np.ndarray, expected: Tensor) -> str | None:
    """What is wrong with distances y, or None.

    At p = ∞ every bit must agree.  Else, in units of eps/2, a distance loses 4 by difference, power, root and product,
    and features/p by a sum in any order.
    """
    features = case["in"] * case.get("kernel", 1) ** 2
    allowed = 0.0 if case["p"] == math.inf else torch.finfo(torch.float32).eps * (4 + features / case["p"])
    expected = expected.numpy()
    if y.shape != expected.shape or y.dtype != np.float32:
        return f"{y.dtype} of shape {y.shape}"
    error = np.abs(y.astype(expected.dtype) - expected)
    if not (error <= allowed * expected).all():  # NaN is an error too
        return f"off by up to {error.max():.3g}"
    return None


# The clock.


def _free_bytes() -> float:
    try:
        return 1024 * int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1])
    except (OSError, TypeError):
        return math.inf


def _rows(way: str, case: dict) -> int:
    """Of the batch, as many as all pairs at once leave room for: two copies of them, doubled by an arena."""
    each = 4 * 4 * case["in"] * case["out"]
    return case["batch"] if way != "broadcast" else max(1, min(case["batch"], int(_free_bytes() / 2 / each)))


def _seconds(f: Callable, x: Tensor, number: int) -> float:
    began = time.perf_counter()
    for _ in range(number):
        f(x)
    return (time.perf_counter() - began) / number


def time_case(case: dict, threads: int, repeats: int = REPEATS) -> dict:
    """Each way → median seconds and readings; or ``reason``, where it cannot run, or ``wrong``."""
    x, w = _tensors(case)
    expected, found, jobs = exact(case, x, w), {}, {}
    for way in WAYS:
        if way == "broadcast" and "pixels" in case:
            found[way] = {"reason": "all pairs at once"}
            continue
        some = x[: _rows(way, case)]
        try:
            f = call(way, case, w, threads)
        except RuntimeError as error:
            found[way] = {"reason": str(error)}
            continue
        if wrong := deviation(case, f(some), expected[: len(some)]):
            found[way] = {"wrong": wrong}
            continue
        jobs[way] = f, some, math.ceil(READING_SECONDS / max(_seconds(f, some, 1), 1e-6))
        found[way] = {"rows": len(some), "readings": []}
    for _ in range(repeats):
        for way, (f, some, number) in jobs.items():
            found[way]["readings"].append(_seconds(f, some, number) * len(x) / len(some))
    for way in jobs:
        found[way]["median"] = statistics.median(found[way]["readings"])
    return found


# Memory.

MEMORY = """
import re, sys
from pathlib import Path
import numpy as np, onnxruntime
path, library, *shape = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.log_severity_level, options.intra_op_num_threads = 3, 1
if library:
    options.register_custom_ops_library(library)
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
x = np.random.default_rng(0).standard_normal([int(a) for a in shape], np.float32)
def memory(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
session.run(None, {"x": x[:1]})
idle = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
session.run(None, {"x": x})
print(memory("VmHWM") - idle)
"""


def measure_memory(way: str, case: dict) -> dict:
    """Bytes beyond those of the session and of a batch of one, the output included; in a fresh process.

    Of Linux's VmHWM: the largest resident set of getrusage starts with that of the process that started it.
    """
    if not Path("/proc/self/clear_refs").exists():
        return {"reason": "measured on Linux only"}
    if way == "native" and not native.available()[0]:
        return {"reason": native.available()[1]}
    x, w = _tensors(case)
    rows = _rows(way, case)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "distance.onnx"
        onnx.save(model(way, case, w), path)
        library = str(cpu.LIBRARY) if way == "native" else ""
        command = [sys.executable, "-c", MEMORY, str(path), library, str(rows), *map(str, x.shape[1:])]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"reason": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    return {"bytes": int(done.stdout), "rows": rows}


# The export of a large net.


def _peak() -> int | None:
    try:
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
    except (OSError, TypeError):
        return None


@torch.no_grad()
def export_net(sizes: dict) -> dict:
    """Exports a net, then runs the file on one image; to be called in a fresh process, whose peak memory counts."""
    torch.manual_seed(0)
    net = linf_plugin.build("linf-mlp", shape=SHAPE, classes=CLASSES, **sizes).eval()
    weights = sum(a.numel() * a.element_size() for a in net.state_dict().values())
    started, x = _peak(), torch.rand(1, *SHAPE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        began = time.perf_counter()
        export(net, path)
        seconds, peak = time.perf_counter() - began, _peak()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        reason = native.register(options)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        logits = session.run(None, {"x": x.numpy()})[0]
    bits = logits.view(np.uint32), net(x).numpy().view(np.uint32)
    return {
        "weights": weights,
        "seconds": seconds,
        "started": started,
        "peak": peak,
        "bit_equal": np.array_equal(*bits),
        "native": reason is None,
    }


def measure_export(sizes: dict) -> dict:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return {**sizes, **fresh.submit(export_net, sizes).result()}


# All of it.


def _machine() -> dict:
    """What the times depend on."""
    try:
        processor = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        processor = platform.processor() or platform.machine()
    usable, reason = native.available()
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "native": reason if usable else f"none ({reason})",
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"),
    }


def run(cases: tuple[dict, ...], sizes: dict, repeats: int = REPEATS, progress: bool | None = None) -> dict:
    """All that is measured: plain data.  progress: True and False as they say, None on a terminal only."""
    before = torch.get_num_threads()
    versions = {m.__name__: m.__version__ for m in (linf_plugin, torch, onnx, onnxruntime)}
    results = {
        "machine": _machine(),
        "versions": {**versions, "python": platform.python_version()},
        "asked": ASKED,
        "repeats": repeats,
        "dist": [],
        "memory": {},
        "export": None,
    }
    work = [functools.partial(measure_memory, way, cases[0]) for way in IN_ONNX]
    disable = None if progress is None else not progress
    with tqdm(total=len(work) + len(cases) * len(THREADS) + 1, disable=disable, leave=False) as bar:
        for way in IN_ONNX:  # first: the processes need memory that later parts take
            bar.set_description(f"memory, {way}")
            results["memory"][way] = measure_memory(way, cases[0])
            bar.update()
        bar.set_description("export")
        results["export"] = measure_export(sizes)
        bar.update()
        try:
            for case in cases:
                row = {"case": {**case, "p": f"{case['p']:g}"}, "size": size_of(case), "threads": {}}
                for threads in THREADS:
                    bar.set_description(f"p = {case['p']:g}, {size_of(case)}, threads: {threads}")
                    row["threads"][str(threads)] = time_case(case, threads, repeats)
                    bar.update()
                results["dist"].append(row)
        finally:
            torch.set_num_threads(before)
    return results


def wrong(results: dict) -> list[str]:
    """What did not give the right numbers, in words."""
    found = [
        f"{WAYS[way]}, threads: {threads}, p = {row['case']['p']}, {row['size']}: {times['wrong']}; not timed"
        for row in results["dist"]
        for threads, ways in row["threads"].items()
        for way, times in ways.items()
        if "wrong" in times
    ]
    return found + ([] if results["export"]["bit_equal"] else ["the exported net's logits are not PyTorch's"])


# The table.


def _number(a: float) -> str:
    return f"{a:.0f}" if a >= 100 else f"{a:.3g}"


def _cell(times: dict, batch: int, base: float | None) -> str:
    if "median" not in times:
        return "wrong" if "wrong" in times else "–"
    text = ("~" if times["rows"] < batch else "") + _number(1e3 * times["median"])
    return text if base is None else f"{text} ×{_number(base / times['median'])}"


def _rows_of(results: dict) -> list[str]:
    lines = []
    for row in results["dist"]:
        for threads, ways in row["threads"].items():
            base = next((ways[w]["median"] for w in ("broadcast", "cdist") if "median" in ways[w]), None)
            cells = [_cell(ways[way], row["case"]["batch"], base) for way in WAYS]
            p = row["case"]["p"].replace("inf", "∞")
            lines.append(f"| p = {p}, {row['size']} | {threads} | " + " | ".join(cells) + " |")
    return lines


def _asked(results: dict) -> list[str]:
    """Ratios at the first case, beside what was asked of them."""
    asked, lines, (row, *_) = results["asked"], [], results["dist"]
    for threads, ways in row["threads"].items():
        for text, way, other in (
            ("native over broadcast", "native", "broadcast"),
            ("body over broadcast", "body", "broadcast"),
            ("native over linf_plugin", "native", "torch"),
        ):
            if "median" in ways[way] and "median" in ways[other]:
                reached = ways[other]["median"] / ways[way]["median"]
                words = f"{WAYS[way]}, times as fast as {WAYS[other]}, threads: {threads}"
                lines.append(f"| {words} | ≥ {asked[text]:g} | {_number(reached)} |")
    if "bytes" in (body := results["memory"]["body"]):
        lines.append(f"| MB that the body needs | < {asked['body bytes'] / 1e6:g} | {body['bytes'] / 1e6:.3g} |")
    made = results["export"]
    lines.append(f"| seconds of the export | < {asked['export seconds']:g} | {made['seconds']:.3g} |")
    if made["peak"]:
        lines.append(f"| peak GB of the export | < {asked['export bytes'] / 1e9:g} | {made['peak'] / 1e9:.3g} |")
    return lines


def table(results: dict) -> str:
    """results.json in Markdown; nothing is measured here."""
    machine, versions, made = results["machine"], results["versions"], results["export"]
    memory = [
        f"{WAYS[way]} {_number(m['bytes'] / 1e6)} MB" + (f" ({m['rows']} rows)" if way == "broadcast" else "")
        if "bytes" in m
        else f"{WAYS[way]} – ({m['reason']})"
        for way, m in results["memory"].items()
    ]
    same = "the same bits as PyTorch" if made["bit_equal"] else "other bits than PyTorch"
    lines = [
        "# Distances in onnxruntime",
        "",
        f"{machine['processor']}, {machine['cores']} cores; compiled operator: {machine['native']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ".",
        "",
        f"Milliseconds, medians of {results['repeats']} in turns, and × how many times as fast as the first of "
        "broadcast and torch.cdist; ~ in proportion to a part of the batch. Sizes are batch×in×out.",
        "",
        "| distance | threads | " + " | ".join(WAYS.values()) + " |",
        "| --- | ---: |" + " ---: |" * len(WAYS),
        *_rows_of(results),
        "",
        f"Memory beyond the session's, {results['dist'][0]['size']}, one thread: {', '.join(memory)}.",
        "",
        f"Export of a linf-mlp of depth {made['depth']}, width {made['width']} ({made['weights'] / 1e6:.0f} MB): "
        f"{made['seconds']:.3g} s"
        + (f", peak {made['peak'] / 1e9:.3g} GB" if made["peak"] else "")
        + f"; one image in onnxruntime gives {same}.",
        "",
        "| | asked | reached |",
        "| --- | ---: | ---: |",
        *_asked(results),
    ]
    if found := wrong(results):
        lines += ["", *(f"Wrong: {text}." for text in found)]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 where something was wrong, 2 where results are there already."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m onnx_export.bench", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=style
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", default=Path("results/onnx"), help="default: results/onnx"
    )
    add_force(parser)
    parser.add_argument("--quick", action="store_true", help="small sizes and two repetitions")
    args = parser.parse_args(argv)
    if occupied(parser.prog, args.out / "results.json", args.out / "table.md", force=args.force):
        return 2
    results = run(QUICK_CASES, QUICK_NET, 2) if args.quick else run(CASES, NET)
    text = table(results)
    write_json(args.out / "results.json", results)
    write_text(args.out / "table.md", text)
    print(text)
    for text in wrong(results):
        print(f"{parser.prog}: {text}", file=sys.stderr)
    return 1 if wrong(results) else 0


if __name__ == "__main__":
    sys.exit(main())

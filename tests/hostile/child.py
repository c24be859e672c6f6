"""One hostile file in a process of its own, whose memory and time are limited and measured."""

import contextlib
import io
import json
import multiprocessing
import os
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch

import linf_plugin
from linf_plugin import checkpoint
from linf_plugin.weights import read_weights
from onnx_export import cli
from onnx_export.files.load import load as load_onnx
from onnx_export.reading.fold import check_sizes
from onnx_export.reading.library import LAST_OPSET, to_torch, unknown_operators
from onnx_export.reading.net import input_of
from onnx_export.reading.plain_form import lowered, plain_form
from onnx_export.running.agreement import agreement

from . import checkpoints

ALLOWED = 1 << 30  # bytes of address space beyond what the process starts with
SECONDS = 120  # then it is killed
CRASHED = 70  # the exit status for an exception that nothing caught

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["hostile.child", "torch._dynamo", "linf_plugin.training"])


def _as_a_command(read) -> int:
    """As ``main`` of the commands: a sentence for what a user can mend."""
    try:
        read()
    except (ValueError, OSError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _same(path: Path, net: linf_plugin.Net) -> str | None:
    """Whether a net computes what onnxruntime computes of the file, for batches of some sizes; None where it does."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base of their own
        return f"onnxruntime refuses it: {error}"
    wanted, generator = session.get_inputs()[0], torch.Generator().manual_seed(0)
    names = [o.name for o in session.get_outputs()]
    output = "logits" if "logits" in names else names[0]
    size = wanted.shape[0]
    for batch in (size,) if isinstance(size, int) else (1, 2, 5):
        x = torch.rand((batch, *net.input_shape), generator=generator)
        levels = 255 if wanted.type == "tensor(uint8)" else 1
        x = (x * levels).round() / levels if levels > 1 else x
        given = (x * levels).round().to(torch.uint8) if levels > 1 else x
        with torch.no_grad():
            ours = net(x).numpy()
        try:
            (theirs,) = session.run([output], {wanted.name: given.numpy()})
        except Exception as error:
            return f"onnxruntime cannot run it: {error}"
        scale = max(1.0, float(np.abs(ours).max()))
        if theirs.shape != ours.shape or not np.abs(theirs - ours).max() <= 1e-4 * scale:
            raise AssertionError(f"the net that was read is another one, in a batch of {batch}")
    return None


def _import(path: Path) -> tuple[int, str | None]:
    made = path.with_suffix(".pt")
    status = cli.main(["import", str(path), "-o", str(made)])
    return status, None if status else _same(path, checkpoint.load(made)[0])


def _load(path: Path) -> tuple[int, None]:
    def read() -> None:
        net, _ = linf_plugin.load(path)
        with torch.no_grad():
            net(torch.zeros(1, *net.input_shape, dtype=next((a.dtype for a in net.parameters()), torch.float32)))

    return _as_a_command(read), None


def _read(path: Path) -> tuple[int, None]:
    """Reads a file as anyone's, also one with our operators, and compares it with onnxruntime."""

    def read() -> None:
        model = load_onnx(path)
        check_sizes(model)
        plain = lowered(plain_form(model), LAST_OPSET)
        if unknown := unknown_operators(plain):
            raise ValueError(f"unknown operators: {unknown}")
        _, (_, *sizes), _ = input_of(model)
        agreement(model, to_torch(plain), torch.rand(4, *sizes, generator=torch.Generator().manual_seed(0)))

    return _as_a_command(read), None


ACTIONS = {
    "import": _import,
    "show": lambda path: (cli.main(["show", str(path)]), None),
    "read": _read,
    "weights": lambda path: (_as_a_command(lambda: read_weights(path)), None),
    "open": lambda path: (_as_a_command(lambda: load_onnx(path)), None),
    "load": _load,
    "resume": lambda path: (_as_a_command(lambda: checkpoints.train(path, resume=True)), None),
}


def _work(action: str, path: Path, report: Path) -> None:
    with open("/proc/self/statm", encoding="ascii") as f:
        size = int(f.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ALLOWED, size + ALLOWED))
    torch.set_num_threads(1)
    os.chdir(path.parent)
    warnings.simplefilter("ignore")  # what is said besides, of files of earlier versions
    said, began, remark = io.StringIO(), time.monotonic(), None
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status, remark = ACTIONS[action](path)
        except BaseException:  # what a user would see as a traceback
            status = CRASHED
            traceback.print_exc()
    used = resource.getrusage(resource.RUSAGE_SELF)
    report.write_text(
        json.dumps(
            {
                "status": status,
                "seconds": time.monotonic() - began,
                "cpu_seconds": used.ru_utime + used.ru_stime,
                "peak_mb": used.ru_maxrss / 1024,
                "stderr": said.getvalue()[-2000:],
                "remark": remark,
            }
        ),
        encoding="utf-8",
    )


def give(action: str, path: Path) -> dict:
    """What one of ``ACTIONS`` does of a file: its exit status, seconds, memory at its peak, and what it says."""
    report = path.with_name("report.json")
    process = CONTEXT.Process(target=_work, args=(action, path, report), daemon=True)
    began = time.monotonic()
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    if not report.exists():
        return {
            "status": process.exitcode,
            "seconds": time.monotonic() - began,
            "cpu_seconds": None,
            "peak_mb": None,
            "stderr": f"the process ended with {process.exitcode}",
            "remark": None,
        }
    return json.loads(report.read_text(encoding="utf-8"))

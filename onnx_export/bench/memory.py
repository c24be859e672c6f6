"""Measures the memory that a way in onnxruntime needs, in a process of its own."""

import subprocess
import sys
import tempfile
from pathlib import Path

import onnx

from linf_plugin.kernels import cpu

from ..running import native
from .cases import tensors_of
from .clock import rows_of
from .ways import model

MEMORY_SCRIPT = """
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
Path("/proc/self/clear_refs").write_text("5")  # resets the peak
session.run(None, {"x": x})
print(memory("VmHWM") - idle)
"""


def measure_memory(way: str, case: dict) -> dict:
    """The bytes that a run needs beyond those of the session and of a batch of one, with the output, in a new process.

    It uses Linux's VmHWM.  The largest resident set of getrusage would begin with that of the parent process.

    Returns:
        ``bytes`` and ``rows``, or ``reason`` why nothing was measured.
    """
    if not Path("/proc/self/clear_refs").exists():
        return {"reason": "measured on Linux only"}
    if way == "native" and not native.available()[0]:
        return {"reason": native.available()[1]}
    x, w = tensors_of(case)
    rows = rows_of(way, case)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "distance.onnx"
        onnx.save(model(way, case, w), path)
        library = str(cpu.LIBRARY) if way == "native" else ""
        command = [sys.executable, "-c", MEMORY_SCRIPT, str(path), library, str(rows), *map(str, x.shape[1:])]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"reason": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    return {"bytes": int(done.stdout), "rows": rows}

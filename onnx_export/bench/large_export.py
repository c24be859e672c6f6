"""Measures the seconds and the memory that the export of a large net takes."""

import multiprocessing
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from linf_plugin.models.architectures import build

from ..exporting import export
from ..running import native

NET_SHAPE, NET_CLASSES = (1, 28, 28), 10


def _peak() -> int | None:
    try:
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
    except (OSError, TypeError):
        return None


@torch.no_grad()
def export_net(sizes: dict) -> dict:
    """Exports a net and runs the file on one image.  It reports the peak of its process: call it in a new one."""
    torch.manual_seed(0)
    net = build("linf-mlp", shape=NET_SHAPE, classes=NET_CLASSES, **sizes).eval()
    weights = sum(a.numel() * a.element_size() for a in net.state_dict().values())
    started, x = _peak(), torch.rand(1, *NET_SHAPE)
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
    """``export_net`` in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return {**sizes, **fresh.submit(export_net, sizes).result()}

"""Export of a net that lies on the device, and the file in onnxruntime, on the GPU where that can."""

import tempfile
import warnings
from pathlib import Path

import torch

from . import absent
from .record import Record, attempt

NETS = {  # name: (architecture, arguments)
    "dense": ("linf-mlp", {"width": 40, "depth": 3}),
    "convolution": ("linf-conv", {"channels": (6, 6), "strides": (1, 2), "width": 30}),
    "head": ("linf-mlp-head", {"width": 40, "depth": 2, "hidden": 20}),
    "sorted": ("sortnet-mlp", {"width": 40, "depth": 3, "rho": 0.3}),
}


def _export(record: Record, name: str, folder: Path, device: str) -> dict:
    import linf_plugin
    import onnx_export
    from onnx_export.running.compare import compare

    architecture, arguments = NETS[name]
    torch.manual_seed(0)
    model = linf_plugin.build(architecture, shape=(1, 8, 8), classes=10, mean=(0.3,), std=0.4, **arguments)
    model, path = model.to(record.device).eval(), folder / f"{name}.onnx"
    onnx_export.export(model, path, epsilon=0.05)
    session = onnx_export.session(path, device)
    comparison = compare(session, model.cpu(), torch.rand(100, 1, 8, 8))
    for failure in comparison.failures:
        record.fail(f"{name}: {failure}")
    return {
        "providers": session.get_providers(),
        "same bits": comparison.bit_equal,
        "logit error": comparison.logit_error,
        "allowed": comparison.allowed_error,
        "radius error": comparison.radius_error,
    }


def run(record: Record) -> str:
    absent.need("onnx", "onnxscript", "onnxruntime")
    absent.stand_in()
    import onnxruntime

    has_cuda = record.device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    device = "cuda" if has_cuda else "cpu"
    record.found |= {"onnxruntime": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}
    bits = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "distances run as bodies", RuntimeWarning)
        for name in list(NETS)[:1] if record.quick else NETS:
            found = attempt(record, name, _export, record, name, Path(folder), device)
            record.found[name] = found
            bits += [name] if found and found["same bits"] else []
            record.save()
    where = "on the GPU" if has_cuda else "on the CPU"
    if record.device == "cuda" and not has_cuda:
        where += " alone: this onnxruntime has no CUDAExecutionProvider (onnxruntime-gpu has)"
    return f"onnxruntime {onnxruntime.__version__} {where}; logits as PyTorch's to the bit: {', '.join(bits) or 'none'}"

"""A net as an ONNX file, made by PyTorch's exporters or by that of this package, and run by onnxruntime."""

import contextlib
import io
import logging
import random
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import onnxruntime
import torch
from torch import Tensor, nn

from onnx_export.exporting import export

from .batches import in_batches

TORCH = ("torchscript", "torchscript", "torchscript", "torchscript", "torchscript", "torchscript", "dynamo")
OWN = {  # those with a radius in ℓ2, as a request → the flavour of the file
    "linf-export model --norm l2": "function",
    "linf-export model --norm l2 --flavour inlined": "inlined",
}
LEVELS = {  # how onnxruntime rewrites the graph; it folds BatchNorm into convolutions at all levels but the last
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


def onnx_file(net: nn.Module, x: Tensor, exporter: str) -> bytes:
    """The ONNX file of a net for any number of samples.  The exporters raise errors of many types."""
    if exporter in OWN:
        with tempfile.TemporaryDirectory() as folder:
            export(net, path := Path(folder) / "net.onnx", flavour=OWN[exporter], norm="l2")
            return path.read_bytes()
    log = logging.getLogger("torch.onnx")
    level, file = log.level, io.BytesIO()
    example = x[:1].expand(3, *x.shape[1:]).clone()
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            if exporter == "dynamo":
                program = torch.onnx.export(
                    net, (example,), dynamo=True, verbose=False, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
                )
                return program.model_proto.SerializeToString()
            names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
            with mock.patch("torch._C._jit_onnx_log"):  # it would print a graph that cannot be exported
                torch.onnx.export(net, (example,), file, dynamo=False, **names)
    finally:
        log.setLevel(level)
    return file.getvalue()


@dataclass(frozen=True)
class Exported:
    """How a file is made and run: all of it is float32, as assumed by the theorem."""

    exporter: str
    level: str
    threads: int
    flush: bool

    def session(self, file: bytes) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = LEVELS[self.level]
        options.intra_op_num_threads = self.threads
        if self.flush:
            options.add_session_config_entry("session.set_denormal_as_zero", "1")
        return onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])

    def run(self, net: nn.Module, x: Tensor) -> Tensor:
        """Logits of x (M, *), in batches of different sizes."""
        return self.logits(self.session(onnx_file(net, x, self.exporter)), x)

    def logits(self, session: onnxruntime.InferenceSession, x: Tensor) -> Tensor:
        name = session.get_inputs()[0].name
        return in_batches(lambda part: torch.from_numpy(session.run(None, {name: part.numpy()})[0]), x)

    def radii(self, session: onnxruntime.InferenceSession, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of x (N, *) and the radii that a file of this package states."""
        z, radii = session.run(["logits", "certified_radius"], {session.get_inputs()[0].name: x.numpy()})
        return torch.from_numpy(z), torch.from_numpy(radii)

    def describe(self) -> dict:
        return asdict(self)


def draw_exported(r: random.Random, exporters: tuple[str, ...] = TORCH) -> Exported:
    return Exported(
        exporter=r.choice(exporters),
        level=r.choice(("all", "all", "all", "extended", "basic", "none")),
        threads=r.choice((1, 1, 2)),
        flush=r.random() < 0.2,
    )

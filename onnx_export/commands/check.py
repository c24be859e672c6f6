"""``linf-export check``."""

import argparse
import os
import sys
from pathlib import Path

import onnxruntime
from torch import nn

from linf_plugin.norms import NORMS, SYMBOLS

from ..files.load import load
from ..files.text import shown
from ..reading.fold import check_sizes
from ..running.compare import Comparison, compare
from ..running.session import session
from ..writing.metadata import file_sha256
from .common import data_of, given_model, model_of, refusals


def run(args: argparse.Namespace) -> int:
    check_sizes(load(args.onnx))  # before a runtime computes constants
    onnx_session = session(args.onnx, args.device)
    props = onnx_session.get_modelmeta().custom_metadata_map
    model = _model(args, props)
    data = data_of(args, args.onnx, props, others=True)
    images = data.x_test[: args.limit]
    provider = onnx_session.get_providers()[0]
    where = f"onnxruntime {onnxruntime.__version__}, {provider}"
    print(f"{args.onnx} ({where}) on {len(images)} test {data.things} of {shown(data.name)}")
    with refusals():
        result = compare(onnx_session, model, images)
    print(_report(result))
    for failure in result.failures:
        print(f"linf-export: FAILED: {failure}", file=sys.stderr)
    return 1 if result.failures else 0


def _model(args: argparse.Namespace, props: dict[str, str]) -> nn.Module:
    """The net in PyTorch with which the file is compared."""
    if args.model is not None:
        return given_model(args)
    if "graph" in props and args.checkpoint is None:
        raise ValueError(f"{args.onnx} was made from a net that no checkpoint holds: give --model and --weights")
    return model_of(_checkpoint_of(args.onnx, props, args.checkpoint))[0]


def _checkpoint_of(path: Path, props: dict[str, str], override: Path | None) -> Path:
    """The checkpoint from which the ONNX file at ``path`` was made.  ``override``: the path that the user gives."""
    if override is None and "checkpoint" not in props:
        raise ValueError(f"{path} does not name its checkpoint: give --checkpoint")
    found = override or Path(os.path.realpath(path)).parent / props["checkpoint"]
    if not found.is_file():
        raise FileNotFoundError(f"the checkpoint {found} is missing" + ("" if override else ": give --checkpoint"))
    if "checkpoint_sha256" in props and file_sha256(found) != props["checkpoint_sha256"]:
        raise ValueError(f"{found} is not the checkpoint from which {path} was made: its SHA-256 differs")
    return found


def _report(result: Comparison) -> str:
    equal = "bit-equal" if result.bit_equal else f"allowed {result.allowed_error:.3g}"
    lines = [
        f"logits                max |onnx − torch| = {result.logit_error:.3g} ({equal})",
        f"predictions           {result.differing_predictions} of {len(result.logits)} differ",
    ]
    if result.radii is not None:
        lines.append(
            f"{'radii in ' + SYMBOLS[NORMS[result.norm]]:<21} max |onnx − torch| = {result.radius_error:.3g}, because "
            f"rounding is subtracted; {result.overstated_radii} above what the logits certify"
        )
    return "\n".join(lines)

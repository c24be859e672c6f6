"""``linf-export import``."""

import argparse
from pathlib import Path

from linf_plugin import checkpoint
from linf_plugin.datasets import DIGESTS, SOURCES
from linf_plugin.files import check_absent

from ..properties import props_of
from ..read import to_net
from ..verify import load_model

SUMMARY = "write an ONNX file as a checkpoint, so that the net can be bounded"
DESCRIPTION = "Turns the graph of an ONNX file back into layers, or names the node that it cannot turn."
EPILOG = """\
examples:
  linf-export import net.onnx -o net.pt
  linf-export import broadcast.onnx -o net.pt --data mnist

Read are distances as nodes of the domain linf, as their bodies inlined, or as Unsqueeze, Sub, Abs, ReduceMax;
Gemm, MatMul, Conv, Relu, Tanh, Neg, flattening, sums with one constant a channel, products with one positive constant.
"""

IMPORTED = {  # metadata that an ONNX file may hold
    "method": str, "dataset": str, **dict.fromkeys(DIGESTS, str), "epsilon": float, "seed": int,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("onnx", type=Path, metavar="FILE", help="ONNX file: one input; one output, or one named logits")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="CHECKPOINT", help="file to write")
    parser.add_argument("--data", choices=SOURCES, help="data set to name in the checkpoint, if FILE names none")
    parser.add_argument("--force", action="store_true", help="replace CHECKPOINT where it exists")


def run(args: argparse.Namespace) -> int:
    check_absent(args.output, args.force)
    onnx_model = load_model(args.onnx)
    model, props = to_net(onnx_model), props_of(onnx_model)
    metadata = {key: read(props[key]) for key, read in IMPORTED.items() if key in props}
    if args.data not in (None, metadata.get("dataset")):  # then the digests are not of it
        metadata = {key: a for key, a in metadata.items() if key not in DIGESTS} | {"dataset": args.data}
    checkpoint.save(args.output, model, metadata)
    layers = ", ".join(name for name, _ in model.spec["layers"])
    print(f"{args.output}: {layers}; Lipschitz bound {model.lipschitz:g}")
    return 0

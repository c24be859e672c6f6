"""``linf-export import``."""

import argparse
import math
from pathlib import Path

from linf_plugin import checkpoint
from linf_plugin.datasets import DIGESTS, SOURCES
from linf_plugin.files import check_absent
from linf_plugin.layers.lipschitz import lipschitz_bound

from ..files.load import load
from ..files.seal import props_of
from ..files.text import said
from ..reading.recompute import read_back

SUMMARY = "write an ONNX file as a checkpoint; the net can then be bounded"
DESCRIPTION = "Turns the graph of an ONNX file back into layers, or names the node for which it cannot."
EPILOG = """\
examples:
  linf-export import net.onnx -o net.pt
  linf-export import broadcast.onnx -o net.pt --data mnist

It reads distances and sorted sums (nodes of the domain linf, their inlined bodies, and distances as Unsqueeze, Sub,
Abs, ReduceMax), Gemm, MatMul, Conv, Relu, Tanh, Neg, flattening, slices that give the middle of an image, sums with one
constant for each channel, and products with one positive constant. A file that takes bytes becomes a net that takes
pixels in [0, 1].

Nothing in FILE is trusted: functions of the domain linf must be those that this program writes.
"""

MOST_LETTERS = 200  # in a name in the metadata


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "onnx", type=Path, metavar="FILE", help="ONNX file with one input, and with one output or an output logits"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="CHECKPOINT", help="file to write")
    parser.add_argument("--data", choices=SOURCES, help="data set that the checkpoint names, if FILE names none")
    parser.add_argument("--force", action="store_true", help="replace CHECKPOINT if it exists")


def run(args: argparse.Namespace) -> int:
    check_absent(args.output, args.force)
    onnx_model = load(args.onnx)
    try:
        model, metadata = read_back(onnx_model), _metadata(props_of(onnx_model))
    except ValueError as error:
        raise ValueError(f"{args.onnx}: {error}") from error
    if args.data not in (None, metadata.get("dataset")):  # the digests are then not those of this data set
        metadata = {key: a for key, a in metadata.items() if key not in DIGESTS} | {"dataset": args.data}
    checkpoint.save(args.output, model, metadata)
    layers = ", ".join(name for name, _ in model.spec["layers"])
    print(f"{args.output}: {layers}; Lipschitz bound {lipschitz_bound(model, math.inf):g}")
    return 0


def _name(text: str) -> str:
    if not text.isprintable() or len(text) > MOST_LETTERS:
        raise ValueError("not a name")
    return text


def _epsilon(text: str) -> float:
    if not 0 < float(text) <= 1:
        raise ValueError("not in (0, 1]")
    return float(text)


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ValueError("not a whole number")
    return int(text)


IMPORTED = {  # key that is taken from a file → function that reads its value
    "method": _name,
    "dataset": _name,
    **dict.fromkeys(DIGESTS, _name),
    "epsilon": _epsilon,
    "seed": _seed,
}


def _metadata(props: dict[str, str]) -> dict:
    """The metadata of an ONNX file that go into the checkpoint.  Raises ValueError where a value is wrong."""
    found = {}
    for key in IMPORTED.keys() & props.keys():
        try:
            found[key] = IMPORTED[key](props[key])
        except ValueError as error:
            raise ValueError(f"the metadata give {said(props[key])} as {key}") from error
    return {key: found[key] for key in IMPORTED if key in found}

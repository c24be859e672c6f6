"""``linf-export model``."""

import argparse
import math
import sys
from pathlib import Path

from linf_plugin.datasets import SOURCES, Dataset, OtherData
from linf_plugin.files import check_absent
from linf_plugin.layers.lipschitz import lipschitz_bound

from ..export import export, record
from ..files.text import shown
from ..running.accuracy import measure
from ..writing.certificate import PIXELS
from ..writing.metadata import Accuracy
from ..writing.settings import CERTIFICATE_CHOICES, FLAVOURS
from .common import add_data, data_of, epsilon, model_of

SUMMARY = "write a checkpoint as an ONNX file"
DESCRIPTION = "Writes the net in a checkpoint as one ONNX file with logits, predictions and certified radii."
EPILOG = """\
flavours:
{flavours}
certificates:
{certificates}
If the data set is available (it needs no folder, or --data-dir names the folder, or --data names the file or folder of
your own data), the file is run on the test set.
Its accuracies go into its metadata, and `linf-export verify` compares them.

examples:
  linf-export model results/digits/linf-dist.pt -o net.onnx
  linf-export model results/mnist-small/linf-dist-mlp.pt -o head.onnx --data-dir ~/data --epsilon 0.3
  linf-export model results/mine/ibp.pt -o mine.onnx --data my.npz
  linf-export model results/digits/linf-dist.pt -o relu.onnx --flavour relu
""".format(
    flavours="".join(f"  {name:<10} {flavour.text}\n" for name, flavour in FLAVOURS.items()),
    certificates="".join(f"  {name:<10} {text}\n" for name, text in CERTIFICATE_CHOICES.items()),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="file that training wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="ONNX file to write")
    parser.add_argument("--flavour", choices=FLAVOURS, default="function", help="default: function")
    parser.add_argument("--certificate", choices=CERTIFICATE_CHOICES, default="auto", help="default: auto")
    parser.add_argument(
        "--epsilon", type=epsilon, help="ε of the interval bound, as 0.1 or 8/255 (default: the ε of the checkpoint)"
    )
    parser.add_argument(
        "--pixels",
        choices=PIXELS,
        default="float",
        help="input: float32 in [0, 1], or bytes; with bytes, radii are in grey levels (default: float)",
    )
    add_data(parser)
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")


def run(args: argparse.Namespace) -> int:
    check_absent(args.output, args.force)
    model, metadata = model_of(args.checkpoint)
    data, accuracy = _data(args, metadata), None  # before a file is written, so an error leaves no file
    if data is not None and tuple(data.x_test.shape[1:]) != model.input_shape:
        shape = tuple(data.x_test.shape[1:])
        raise ValueError(f"{args.checkpoint} takes {data.things} of shape {model.input_shape}, {data.name} has {shape}")
    export(
        model,
        args.output,
        metadata,
        args.checkpoint,
        flavour=args.flavour,
        certificate=args.certificate,
        epsilon=args.epsilon,
        pixels=args.pixels,
        force=args.force,
    )
    if data is not None:
        eps = metadata.get("epsilon") if args.epsilon is None else args.epsilon
        accuracy = measure(args.output, data.x_test, data.y_test, eps)
        record(args.output, accuracy)
    print(f"{args.output}: {args.output.stat().st_size:,} bytes, Lipschitz bound {lipschitz_bound(model, math.inf):g}")
    if accuracy is not None:
        print(_sentence(accuracy, data.things))
    return 0


def _data(args: argparse.Namespace, metadata: dict) -> Dataset | None:
    """The data on which the file is measured.

    None where the file is for verifiers, or the data set is not known, not available, or not that of the checkpoint.
    """
    if FLAVOURS[args.flavour].for_verifiers:
        return None
    if args.data is None and args.data_dir is None:
        name = metadata.get("dataset")
        if name not in SOURCES or SOURCES[name].files:
            return None
    try:
        return data_of(args, args.checkpoint, metadata)
    except OtherData as error:
        print(f"linf-export: the file gets no accuracies: {shown(error.what)}", file=sys.stderr)
        return None


def _sentence(accuracy: Accuracy, things: str) -> str:
    text = f"of {accuracy.images} test {things} {accuracy.correct} are classified correctly"
    if accuracy.certified is not None:
        text += f", {accuracy.certified} of them certified ({accuracy.certificate})"
    return text

"""Arguments of ``linf-export model``."""

import argparse
from pathlib import Path

from ..writing.settings import CERTIFICATE_CHOICES, FLAVOURS, PIXELS, RADIUS_NORMS
from .common import add_data, add_model, epsilon, shape

SUMMARY = "write a net as an ONNX file"
DESCRIPTION = """\
Writes the net in a checkpoint, or a net of your own, as one ONNX file with logits, predictions and certificates."""
EPILOG = """\
flavours:
{flavours}
certificates:
{certificates}
norms of the radius:
{norms}
If the data set is available (it needs no folder, or --data-dir names the folder, or --data names the file or folder of
your own data), the file is run on the test set.
Its accuracies go into its metadata, and `linf-export verify` compares them.

A net of your own is any PyTorch module whose operators have rules: convolutions, batch normalisation, pools, residual
connections and so on (docs/math.md lists them). Its program is read by torch.export. The file has a radius if a
Lipschitz bound is known, and with --epsilon an interval bound: lower and upper ends of each logit, and certified.
The certificates are about the float32 program of the file. Its logits are compared with PyTorch's on some samples.

examples:
  linf-export model results/digits/linf-dist.pt -o net.onnx
  linf-export model results/mnist-small/linf-dist-mlp.pt -o head.onnx --data-dir ~/data --epsilon 0.3
  linf-export model results/mine/ibp.pt -o mine.onnx --data my.npz
  linf-export model results/digits/linf-dist.pt -o relu.onnx --flavour relu
  linf-export model sll.pt -o sll.onnx --norm l2 --epsilon 0.5
  linf-export model --model net.py:net --weights net.pt --input-shape 3,32,32 --epsilon 2/255 -o net.onnx
""".format(
    flavours="".join(f"  {name:<10} {flavour.text}\n" for name, flavour in FLAVOURS.items()),
    certificates="".join(f"  {name:<10} {text}\n" for name, text in CERTIFICATE_CHOICES.items()),
    norms="".join(f"  {name:<10} {text}\n" for name, text in RADIUS_NORMS.items()),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, nargs="?", metavar="CHECKPOINT", help="file that training wrote; or give --model"
    )
    add_model(parser)
    parser.add_argument(
        "--input-shape",
        type=shape,
        metavar="C,H,W",
        help="for --model: the shape of a sample (default: that of --data)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="ONNX file to write; missing folders are made"
    )
    parser.add_argument("--flavour", choices=FLAVOURS, default="function", help="default: function")
    parser.add_argument("--certificate", choices=CERTIFICATE_CHOICES, default="auto", help="default: auto")
    parser.add_argument(
        "--norm", choices=RADIUS_NORMS, default="linf", help="norm of the certified radius, and of ε (default: linf)"
    )
    parser.add_argument(
        "--epsilon",
        type=epsilon,
        help="ε of the interval bound and of the certified accuracy, as 0.1 or 8/255 (default: the ε of the "
        "checkpoint, unless it is in another norm)",
    )
    parser.add_argument(
        "--pixels",
        choices=PIXELS,
        default="float",
        help="input: float32 in [0, 1], or bytes; with bytes, radii are in grey levels (default: float)",
    )
    add_data(parser)
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")

"""``linf-compare spectral``."""

import argparse
from pathlib import Path

SUMMARY = "bound the spectral norms of a net's layers"
DESCRIPTION = """\
Prints bounds of the spectral norm (the largest singular value) of every linear layer and convolution of a net, by
every method, and their product, a Lipschitz bound of the net in ℓ2.  It says which bounds are certificates."""
EPILOG = """\
examples:
  linf-compare spectral --model net.py:net --weights net.pt
  linf-compare spectral --model net.py:net --shape 3,32,32 --methods svd,power
  linf-compare spectral --checkpoint results/digits/ibp.pt

--model runs FILE.py and calls FUNCTION without arguments, as `certify` does.  --checkpoint reads a net of `run`;
nothing in that file is executed.

With --shape, or for a net that knows its input, each convolution is bounded for the size of its images.  Otherwise the
bounds hold for every size.  The method `matrix` needs a size, and suits small layers only.

The product is given for a chain of layers only: an nn.Sequential of linear layers, convolutions, and layers with a
known Lipschitz constant in ℓ2, such as activations, pools, and residual layers of 1-Lipschitz nets.  Forms for training
(SLL, CPL, AOL and others) are first replaced by layers with stored weights, as `run` does before it certifies.

exit status: 0; 2 for a wrong request."""

REPLACED = "Forms for training were replaced by layers with stored weights first (linf_plugin.materialise)."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    net = parser.add_mutually_exclusive_group(required=True)
    net.add_argument("--model", metavar="FILE.py:FUNCTION", help="your own code, which builds the net")
    net.add_argument("--checkpoint", type=Path, metavar="NET.pt", help="a net that `run` or linf_plugin.save wrote")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="for --model: a state dict, of torch.save or .safetensors"
    )
    parser.add_argument("--shape", metavar="C,H,W", help="of one input; bounds are then for these sizes")
    parser.add_argument(
        "--methods", metavar="A,B", help="of gram, svd, lipbound, norm2toep, power, matrix; default: all except matrix"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the table to a file too")
    parser.add_argument("--force", action="store_true", help="replace the file of --out")


def run(args: argparse.Namespace) -> int:
    import linf_plugin
    from linf_plugin.files import check_absent, write_text
    from linf_plugin.layers.reparametrised import Reparametrised
    from linf_plugin.model_file import load_model
    from linf_plugin.models.materialised import materialise
    from linf_plugin.spectral import report
    from linf_plugin.spectral.reporting import USUAL
    from linf_plugin.weights import fill, read_weights

    if args.checkpoint is not None and args.weights is not None:
        raise ValueError("--weights goes with --model: a checkpoint has its own weights")
    if args.out is not None:
        check_absent(args.out, args.force)
    methods = USUAL if args.methods is None else tuple(filter(None, map(str.strip, args.methods.split(","))))
    if not methods:
        raise ValueError("--methods: name at least one method")
    if args.checkpoint is not None:
        model, _ = linf_plugin.load(args.checkpoint)
    else:
        model = load_model(args.model)
        if args.weights is not None:
            fill(model, read_weights(args.weights), args.weights)
    trained = any(isinstance(layer, Reparametrised) for layer in model.modules())
    shape = _shape(args.shape) or getattr(model, "input_shape", None)
    try:
        text = f"{report(materialise(model) if trained else model, methods=methods, shape=shape)}\n"
        text += f"\n{REPLACED}\n" if trained else ""
    except RuntimeError as error:  # a refusal: one sentence
        raise ValueError(" ".join(str(error).split())) from error
    print(text, end="")
    if args.out is not None:
        write_text(args.out, text)
    return 0


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ValueError(f"--shape must be whole numbers such as 3,32,32, got {text!r}")
    return shape

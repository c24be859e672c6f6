"""``linf-export``: checkpoints as ONNX files and back, checked, and as problems for a verifier."""

import argparse
import os
import sys
from pathlib import Path

import onnx
import onnxruntime
from google.protobuf.message import DecodeError

from linf_plugin import checkpoint
from linf_plugin.datasets import SOURCES, Dataset, load_dataset

from .abcrown import write_abcrown
from .check import Comparison, compare
from .export import export, file_sha256
from .read import to_net
from .session import DEVICES, DeviceError, session

PROG = "linf-export"

EXAMPLES = f"""\
examples:
  {PROG} model results/mnist/checkpoint.pt -o net.onnx
  {PROG} check net.onnx --data-dir ~/data
  {PROG} import net.onnx -o net.pt
  {PROG} abcrown results/mnist/checkpoint.pt --eps 0.1 --data-dir ~/data --out problem

The file runs in stock onnxruntime, without this package:
  import onnxruntime
  logits, radii = onnxruntime.InferenceSession("net.onnx").run(None, {{"x": images}})
with images (batch, C, H, W), float32 in [0, 1]. No change of an image by less than its radius in any pixel
changes the predicted class.
"""

CHECK_EXAMPLES = f"""\
examples:
  {PROG} check net.onnx                    the data set that the file names, if it needs no folder
  {PROG} check net.onnx --data ~/data      that data set, read from ~/data
  {PROG} check net.onnx --data mnist --data-dir ~/data --limit 1000

exit status: 0 where all agrees; 1 where logits, predictions or radii do not; 2 where nothing was compared.
"""

IMPORT_EXAMPLES = f"""\
examples:
  {PROG} import net.onnx -o net.pt
  {PROG} import broadcast.onnx -o net.pt --data mnist

Read are distances as nodes of the domain linf, as their bodies inlined, or as Unsqueeze, Sub, Abs, ReduceMax;
Gemm, MatMul, Conv, Relu, Tanh, Neg, flattening, sums with one constant a channel, products with one positive constant.
"""

ABCROWN_EXAMPLES = f"""\
examples:
  {PROG} abcrown results/digits/linf-dist.pt --eps 0.1 --out problem
  {PROG} abcrown mnist.pt --eps 0.3 --data-dir ~/data --samples 1000 --out problem

Then, where linf-plugin is installed beside α,β-CROWN:
  python abcrown.py --config problem/config.yaml [--device cpu|cuda] [--epsilon E] [--end N]
"""

IMPORTED = {"method": str, "dataset": str, "epsilon": float, "seed": int}  # metadata that an ONNX file may hold


def _model(args: argparse.Namespace) -> int:
    model, metadata = checkpoint.load(args.checkpoint)
    export(model, args.output, metadata, args.checkpoint)
    print(f"{args.output}: {args.output.stat().st_size:,} bytes, Lipschitz bound {model.lipschitz:g}")
    return 0


def _import(args: argparse.Namespace) -> int:
    try:
        onnx_model = onnx.load(args.onnx)
    except DecodeError as error:
        raise ValueError(f"{args.onnx} is not an ONNX file: {error}") from error
    model = to_net(onnx_model)
    props = {p.key: p.value for p in onnx_model.metadata_props}
    metadata = {key: read(props[key]) for key, read in IMPORTED.items() if key in props}
    if args.data is not None:
        metadata["dataset"] = args.data
    checkpoint.save(args.output, model, metadata)
    layers = ", ".join(name for name, _ in model.spec["layers"])
    print(f"{args.output}: {layers}; Lipschitz bound {model.lipschitz:g}")
    return 0


def _abcrown(args: argparse.Namespace) -> int:
    try:
        _, config = write_abcrown(
            args.checkpoint, args.out, args.eps, dataset=args.data, data_dir=args.data_dir, samples=args.samples,
            force=args.force,
        )
    except FileExistsError as error:
        raise FileExistsError(f"{error}: give --force") from error
    print(f"{config}: now  python abcrown.py --config {config}")
    return 0


def _checkpoint_of(path: Path, props: dict[str, str], override: Path | None) -> Path:
    """The checkpoint that the ONNX file at path was made from; ``override`` is where the user says it is."""
    if override is None and "checkpoint" not in props:
        raise ValueError(f"{path} does not name its checkpoint: give --checkpoint")
    found = override or Path(os.path.realpath(path)).parent / props["checkpoint"]
    if not found.is_file():
        raise FileNotFoundError(f"the checkpoint {found} is missing" + ("" if override else ": give --checkpoint"))
    if "checkpoint_sha256" in props and file_sha256(found) != props["checkpoint_sha256"]:
        raise ValueError(f"{found} is not the checkpoint that {path} was made from: its SHA-256 differs")
    return found


def _data(args: argparse.Namespace, props: dict[str, str]) -> Dataset:
    """The data set by name, by folder, or by default."""
    name, folder = args.data, args.data_dir
    if name not in SOURCES:
        if name is not None and not Path(name).is_dir():
            raise ValueError(f"{name} is neither a data set ({', '.join(SOURCES)}) nor a folder")
        if "dataset" not in props:
            raise ValueError(f"{args.onnx} does not name its data set: give --data NAME")
        name, folder = props["dataset"], name or folder
    if folder is None and name in SOURCES and SOURCES[name].files:
        raise ValueError(f"{name} is read from a folder: give --data-dir")
    return load_dataset(name, folder)


def _report(result: Comparison, labels, props: dict[str, str]) -> str:
    epsilon = float(props["epsilon"]) if "epsilon" in props else None
    clean, certified = result.accuracies(labels, epsilon)
    equal = "bit-equal" if result.bit_equal else f"allowed {result.allowed_error:.3g}"
    lines = [
        f"logits                max |onnx − torch| = {result.logit_error:.3g} ({equal})",
        f"predictions           {result.differing_predictions} of {len(labels)} differ",
        f"radii                 max |onnx − torch| = {result.radius_error:.3g}, "
        f"{result.overstated_radii} above what the logits certify",
        f"clean accuracy        {clean:.4f}",
    ]
    if certified is not None:
        lines.append(f"certified accuracy    {certified:.4f} at ε = {epsilon:g}")
    recorded = {key: float(props[key]) for key in sorted(props) if "_accuracy" in key}
    if recorded:
        lines.append("recorded in the file, on all test images:")
        lines += [f"  {key:<32}{value:.4f}" for key, value in recorded.items()]
    return "\n".join(lines)


def _check(args: argparse.Namespace) -> int:
    onnx_session = session(args.onnx, args.device)
    props = onnx_session.get_modelmeta().custom_metadata_map
    model, _ = checkpoint.load(_checkpoint_of(args.onnx, props, args.checkpoint))
    data = _data(args, props)
    images, labels = data.x_test[: args.limit], data.y_test[: args.limit]
    provider = onnx_session.get_providers()[0]
    where = f"onnxruntime {onnxruntime.__version__}, {provider}"
    print(f"{args.onnx} ({where}) on {len(images)} test images of {data.name}")
    result = compare(onnx_session, model, images)
    print(_report(result, labels.numpy(), props))
    for failure in result.failures:
        print(f"{PROG}: FAILED: {failure}", file=sys.stderr)
    return 1 if result.failures else 0


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        PROG, description="Writes checkpoints as ONNX files, checks and reads these; writes problems for α,β-CROWN.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = p.add_subparsers(required=True, metavar="COMMAND")

    q = commands.add_parser(
        "model", help="write a checkpoint as an ONNX file",
        description="Writes the net in a checkpoint as one ONNX file: logits and certified radii.",
    )
    q.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="file that training wrote")
    q.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="ONNX file to write or replace")
    q.set_defaults(command=_model)

    q = commands.add_parser(
        "check", help="compare an ONNX file with its checkpoint on test images",
        description="Runs test images through onnxruntime and through PyTorch, and compares.",
        epilog=CHECK_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    q.add_argument("onnx", type=Path, metavar="FILE", help="ONNX file that this program wrote")
    q.add_argument(
        "--data", metavar="NAME|FOLDER",
        help=f"data set ({', '.join(SOURCES)}), or the folder with the files of the one that FILE names",
    )
    q.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the files of the data set")
    q.add_argument(
        "--checkpoint", type=Path, metavar="CHECKPOINT",
        help="where the checkpoint is, if it is no longer where FILE says",
    )
    q.add_argument("--limit", type=_positive, metavar="N", help="only the first N test images")
    q.add_argument("--device", choices=DEVICES, default="auto", help="where onnxruntime runs (default: auto)")
    q.set_defaults(command=_check)

    q = commands.add_parser(
        "import", help="write an ONNX file as a checkpoint, so that the net can be bounded",
        description="Turns the graph of an ONNX file back into layers, or names the node that it cannot turn.",
        epilog=IMPORT_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    q.add_argument("onnx", type=Path, metavar="FILE", help="ONNX file: one input; one output, or one named logits")
    q.add_argument("-o", "--output", type=Path, required=True, metavar="CHECKPOINT", help="to write or replace")
    q.add_argument("--data", choices=SOURCES, help="data set to name in the checkpoint, if FILE names none")
    q.set_defaults(command=_import)

    q = commands.add_parser(
        "abcrown", help="write a checkpoint as a problem for the verifier α,β-CROWN",
        description="Writes problem.py and config.yaml: does any of the first test images change class within ε?",
        epilog=ABCROWN_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    q.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="file that training wrote")
    q.add_argument("--eps", type=float, required=True, help="ε in the pixel range, in (0, 1]")
    q.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the two files go")
    q.add_argument("--data", choices=SOURCES, help="data set, if it is not the one that CHECKPOINT names")
    q.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the files of the data set")
    q.add_argument("--samples", type=_positive, default=100, metavar="N", help="first N images (default: 100)")
    q.add_argument("--force", action="store_true", help="replace the two files where they exist")
    q.set_defaults(command=_abcrown)
    return p


def main(argv: list[str] | None = None) -> int:
    """Runs one command.  Returns the exit status: 0; 1 where a check fails; 2 where a user error stops it."""
    args = _parser().parse_args(argv)
    try:
        return args.command(args)
    except (OSError, ValueError, DeviceError) as error:
        print(f"{PROG}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2

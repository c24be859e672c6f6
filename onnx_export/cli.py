"""``linf-export``: writes checkpoints as ONNX files, checks and reads these, and writes problems for verifiers."""

import argparse
import importlib
import sys

from . import console
from .parsers import abcrown, bench, check, cross_check, import_, model, show, verify, vnnlib
from .version import version

PROG = "linf-export"
# Each has SUMMARY, DESCRIPTION, EPILOG and add_arguments(parser).  The module of the same name in ``commands``, which
# imports torch, has run(args) → exit status.
EXPORT_COMMANDS = {
    "model": model,
    "show": show,
    "check": check,
    "verify": verify,
    "import": import_,
    "vnnlib": vnnlib,
    "cross-check": cross_check,
    "abcrown": abcrown,
    "bench": bench,
}

EXAMPLES = f"""\
examples:
  {PROG} model results/mnist/checkpoint.pt -o net.onnx --data-dir ~/data
  {PROG} show net.onnx
  {PROG} verify net.onnx --data-dir ~/data
  {PROG} vnnlib results/mnist/checkpoint.pt --eps 0.1 --data-dir ~/data --out benchmark
  {PROG} cross-check results/digits/small.pt

The file runs in stock onnxruntime, without this package:
  import onnxruntime
  logits, prediction, radius = onnxruntime.InferenceSession("net.onnx").run(None, {{"x": images}})
Images are (batch, C, H, W), float32 in [0, 1]. If every pixel of an image changes by less than the radius, the
predicted class does not change. onnx_export.session("net.onnx") runs the file several times faster.
"""


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        PROG,
        description="Writes checkpoints as ONNX files, checks and reads ONNX files, and writes problems for verifiers.",
        epilog=EXAMPLES,
        formatter_class=console.Help,
    )
    p.add_argument("--version", action="version", version=f"{PROG} {version()}")
    commands = p.add_subparsers(required=True, metavar="COMMAND")
    for name, command in EXPORT_COMMANDS.items():
        q = commands.add_parser(
            name,
            help=command.SUMMARY,
            description=command.DESCRIPTION,
            epilog=command.EPILOG,
            formatter_class=console.Help,
        )
        command.add_arguments(q)
        q.set_defaults(command=command.__name__.rpartition(".")[2])
    return p


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Returns the exit status: 0; 1 if a check fails; 2 for a wrong request; 130 after Ctrl-C; 141 if a pipe was closed.
    """
    return console.command(lambda: _run(_parser().parse_args(argv)))


def _run(args: argparse.Namespace) -> int:
    from linf_plugin import extras

    try:
        with extras.named():
            return importlib.import_module(f".commands.{args.command}", __package__).run(args)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        text = _refused(error)
        if text is None:
            raise
        print(f"{PROG}: error: {text}", file=sys.stderr)
        return 2


def _refused(error: Exception) -> str | None:
    """Returns what an error of the user is, in one sentence; None for an error of the program."""
    if isinstance(error, ImportError):  # perhaps of a package that the modules below import
        return str(error)
    from linf_plugin.datasets import OtherData
    from linf_plugin.files import WouldReplace

    from .files.text import shown
    from .running.arithmetic import LessThanFloat32
    from .running.session import DeviceError

    if isinstance(error, WouldReplace):
        return error.with_flags()
    if isinstance(error, OtherData):
        return shown(error.what)
    if isinstance(error, (OSError, ValueError, TypeError, DeviceError, LessThanFloat32)):
        return shown(" ".join(console.reason(error).split()))
    return None

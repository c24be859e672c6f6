"""Command line of the harness: ``linf-compare COMMAND``; ``COMMANDS`` has all of them."""

import argparse
import os
import sys

from onnx_export import console
from onnx_export.version import version

from .commands import bench, certify, diff, fronts, list_, report, results, run, search, show, spectral, study

PROG = "linf-compare"
DESCRIPTION = """\
Trains ℓ∞-distance nets and interval-trained baselines on the same data, certifies and attacks them, and
compares.  Certifies nets that you bring.  Every ε is in units of the pixel range [0, 1]."""
GOES_ON = {
    "run": "from the last finished epoch",
    "certify": "from the last finished part",
    "search": "with the next trial",
}  # with --resume
COMMANDS = {  # each has SUMMARY, DESCRIPTION, EPILOG, add_arguments(parser) and run(args) → exit status
    "run": run,
    "certify": certify,
    "diff": diff,
    "report": report,
    "results": results,
    "search": search,
    "fronts": fronts,
    "spectral": spectral,
    "study": study,
    "bench": bench,
    "list": list_,
    "show": show,
}


def _parser() -> argparse.ArgumentParser:
    style = console.Help
    parser = argparse.ArgumentParser(prog=PROG, description=DESCRIPTION, formatter_class=style)
    parser.add_argument("--version", action="version", version=f"{PROG} {version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        one = commands.add_parser(
            name, help=command.SUMMARY, description=command.DESCRIPTION, epilog=command.EPILOG, formatter_class=style
        )
        command.add_arguments(one)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Returns the exit status: 0; 1 if a certificate, an operator or a page is wrong, or if a method of a run failed; 2
    for a wrong request; 130 after Ctrl-C; 141 if a pipe was closed.
    """
    return console.command(lambda: _run(_parser().parse_args(argv)))


def _run(args: argparse.Namespace) -> int:
    rank = os.environ.get("RANK") if "TORCHELASTIC_RUN_ID" in os.environ else None  # as torchrun sets them
    name = PROG if rank is None else f"{PROG} (rank {rank})"
    try:
        from linf_plugin import extras  # imports torch

        with extras.named("compare"):
            return COMMANDS[args.command].run(args)
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, OSError, FloatingPointError, ImportError) as error:
        would_replace = hasattr(error, "with_flags")  # the module of this class imports torch
        text = error.with_flags() if would_replace else console.reason(error)
        print(f"{name}: error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hint = f"; --resume goes on {GOES_ON[args.command]}" if args.command in GOES_ON else ""
        print(f"{name}: interrupted{hint}", file=sys.stderr)
        return 130

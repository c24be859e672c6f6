"""``python -m gpu_check``, from the root of the repository with ``tests`` on the path; ``make gpu-check``."""

import argparse
import faulthandler
import os
import signal
import sys
import threading
import time
from pathlib import Path

from .conduct import DONE, FAILED, NO_GPU, PARTS, WRONG, conduct
from .record import run_part

DESCRIPTION = f"""\
Checks what has to do with a CUDA GPU, within ten minutes, and says one line a part:

{chr(10).join(f"  {part.name:<10} {part.about}" for part in PARTS.values())}

Each part is a process of its own with a share of the time, and with what the parts before it left of theirs.  One
that takes longer is ended, and counts as failed.  torch >= 2.10 and NumPy are all that is needed: what asks for other
packages is left out where they are not installed, and the line says so.

The file holds what each part found, and is written anew while they run: what ends the command in between loses
nothing.  An older file of that name is put aside, renamed after its time.

Exit status: {DONE} where every part that ran passed; {FAILED} where one failed; {WRONG} for a wrong request;
{NO_GPU} where there is no GPU: the command says so and writes nothing."""


def _watch(parent: int) -> None:
    """Ends this part, and what it started, when the process that began it is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


def _child(name: str, args: argparse.Namespace) -> int:
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    faulthandler.dump_traceback_later(max(1.0, args.seconds - 2))  # says where a part is that will be ended
    return run_part(PARTS[name].module, args.out, args.device, args.seconds, args.quick)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m gpu_check", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.json",
        default=Path("results/gpu-check.json"),
        help="default: results/gpu-check.json",
    )
    parser.add_argument("--parts", default=",".join(PARTS), metavar="A,B", help="which, in this order; default: all")
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu: the same with the CPU's kernels, to see that all runs; default: cuda",
    )
    parser.add_argument("--seconds", type=float, default=570, metavar="N", help="for all parts together; default: 570")
    parser.add_argument("--quick", action="store_true", help="a few cases of each part")
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)  # runs one part, for the process above
    args = parser.parse_args(argv)
    if args.child:
        return _child(args.child, args)
    names = args.parts.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown or not args.seconds > 0:
        wrong = f"--parts: {unknown[0]!r} is none of {', '.join(PARTS)}" if unknown else "--seconds must be positive"
        print(f"{parser.prog}: error: {wrong}", file=sys.stderr)
        return WRONG
    return conduct(names, args.device, args.out, args.seconds, args.quick)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the part that runs too
    sys.exit(main())

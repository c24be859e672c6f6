"""``python -m onnx_export.bench``."""

import argparse
import sys

from ..parsers.bench import DESCRIPTION, add_arguments
from .command import run

PROG = "python -m onnx_export.bench"
EXAMPLES = f"""\
examples:
  OMP_WAIT_POLICY=passive {PROG}
  {PROG} --quick --out /tmp/bench     small sizes, to see in seconds that everything works"""


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status of ``command.run``."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(PROG, description=DESCRIPTION, epilog=EXAMPLES, formatter_class=style)
    add_arguments(parser)
    return run(parser.parse_args(argv), PROG)


if __name__ == "__main__":
    sys.exit(main())

"""``linf-export bench``."""

import argparse

from ..bench import command


def run(args: argparse.Namespace) -> int:
    return command.run(args, "linf-export bench")

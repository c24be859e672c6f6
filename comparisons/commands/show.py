"""``linf-compare show``."""

import argparse
import sys

SUMMARY = "print a recipe, to copy it"
DESCRIPTION = "Prints the file of a recipe as it is, with its comments."
EPILOG = """\
examples:
  linf-compare show digits
  linf-compare show digits > mine.toml
      a copy to change; `linf-compare run mine.toml` runs it.  `run --set` changes single settings without a copy"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a name of `linf-compare list`, or the path of a TOML file")


def run(args: argparse.Namespace) -> int:
    from ..recipes.recipe import read_toml

    path, _ = read_toml(args.recipe)
    text = path.read_text(encoding="utf-8")
    if sys.stdout.isatty():
        print(text, end="")
    else:  # TOML is UTF-8, whatever the encoding of the terminal
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8"))
        sys.stdout.buffer.flush()
    return 0

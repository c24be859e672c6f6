"""``linf-compare study NAME``."""

import argparse

from ..studies.found import load, summaries

SUMMARY = "measure one question; `study --list` names the studies"
DESCRIPTION = """\
Runs a study.  A study measures one question, and writes results.json and a table.  `linf-compare study NAME --help`
shows the options of a study."""


def _listed() -> str:
    return "\n".join(f"  {name:10} {summary}" for name, summary in summaries().items())


EPILOG = f"studies:\n{_listed()}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--list", action="store_true", help="name the studies")
    parser.add_argument("study", nargs=argparse.REMAINDER, metavar="NAME …", help="name of a study, and its options")


def run(args: argparse.Namespace) -> int:
    if args.list or not args.study:
        if not args.list:
            raise ValueError(f"name a study:\n{_listed()}")
        print(_listed())
        return 0
    from ..studies.shell import main

    name, *options = args.study
    return main(load(name), options, prog=f"linf-compare study {name}")

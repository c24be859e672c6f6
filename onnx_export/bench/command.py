"""The command behind ``linf-export bench`` and ``python -m onnx_export.bench``."""

import argparse
import sys

from linf_plugin.files import occupied, write_json, write_text

from .cases import FULL, QUICK
from .measure import measure
from .table import table, wrong


def run(args: argparse.Namespace, prog: str) -> int:
    """Returns the exit status: 0, 1 where something was wrong, 2 where results are there already."""
    if occupied(prog, args.out / "results.json", args.out / "table.md", force=args.force):
        return 2
    results = measure(QUICK if args.quick else FULL)
    text = table(results)
    write_json(args.out / "results.json", results)
    write_text(args.out / "table.md", text)
    print(text)
    for line in wrong(results):
        print(f"{prog}: {line}", file=sys.stderr)
    return 1 if wrong(results) else 0

"""``linf-export cross-check``."""

import argparse
import sys

from linf_plugin.files import check_absent, write_json

from ..verifiers.marabou import contradictions, cross_check
from .common import data_of, model_of


def run(args: argparse.Namespace) -> int:
    if args.json is not None:
        check_absent(args.json, args.force)
    net, metadata = model_of(args.checkpoint)
    data = data_of(args, args.checkpoint, metadata, others=True)
    limits = {"time_limit": args.time_limit, "memory": args.memory * 2**30}
    results = cross_check(net, data.x_test, data.y_test, args.flavour, count=args.count, **limits)
    print(f"{'image':>7} {'radius':>9}  {'within it':<10} {'exact':>9}  beyond that")
    for r in results:
        exact = f"{r['exact']['upper']:9.5f}" if r["exact"] else f"{'–':>9}"
        beyond = r["beyond"]["verdict"] if r["beyond"] else "–"
        print(f"{r['row']:7} {r['radius']:9.5f}  {r['inside']['verdict']:<10} {exact}  {beyond}")
    confirmed = sum(r["inside"]["verdict"] == "unsat" for r in results)
    wrong = contradictions(results)
    print(f"{confirmed} of {len(results)} certificates confirmed, {wrong} contradictions")
    if args.json is not None:
        write_json(args.json, results)
    if wrong:
        print(f"linf-export: FAILED: {wrong} verdicts contradict a certificate", file=sys.stderr)
    return 1 if wrong else 0

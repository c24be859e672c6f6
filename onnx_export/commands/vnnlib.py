"""``linf-export vnnlib``."""

import argparse

from ..verifiers.vnnlib import write_benchmark
from ..writing.settings import VERIFIER_FLAVOURS
from .common import data_of, model_of


def run(args: argparse.Namespace) -> int:
    net, metadata = model_of(args.checkpoint)
    data = data_of(args, args.checkpoint, metadata, others=True)
    folder = write_benchmark(
        net,
        args.out,
        data,
        args.eps,
        count=args.count,
        seed=args.seed,
        pool=args.pool,
        timeout=args.timeout,
        flavours=tuple(args.flavour or VERIFIER_FLAVOURS),
        kinds=tuple(args.kind or ("any",)),
        name=args.name or args.out.resolve().name,
        compress=not args.plain,
        force=args.force,
    )
    instances = len((folder / "instances.csv").read_text(encoding="utf-8").splitlines())
    print(f"{folder}: {instances} instances; {folder / 'README.md'} describes them")
    return 0

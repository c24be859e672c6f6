"""``linf-export abcrown``."""

import argparse

from ..verifiers.abcrown import write_abcrown


def run(args: argparse.Namespace) -> int:
    _, config = write_abcrown(
        args.checkpoint,
        args.out,
        args.eps,
        dataset=args.data,
        data_dir=args.data_dir,
        samples=args.samples,
        force=args.force,
    )
    print(f"{config}: now  python abcrown.py --config {config}")
    return 0

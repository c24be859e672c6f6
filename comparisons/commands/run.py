"""``linf-compare run``."""

import argparse
import os
import sys
from pathlib import Path

SUMMARY = "train, certify, attack, compare"
DESCRIPTION = """\
Trains ℓ∞-distance nets and interval-trained baselines on the same data, certifies and attacks them, and
compares.  Every ε is in units of the pixel range [0, 1]."""
EPILOG = """\
examples:
  linf-compare run digits
      about five minutes on two CPU cores; nothing to download
  linf-compare run mnist-tiny --data-dir data --methods linf-dist,ibp
      reads data/MNIST/raw/*.gz
  linf-compare run mnist-tiny --data-dir data --resume
      goes on after an interruption: an interrupted method continues from its last epoch
  linf-compare run mnist-tiny --data-dir mine --data-name "my digits"
      images of your own, or a part of the published ones, in the same layout: under a name of their own
  linf-compare run mnist-tiny --data-dir data --budget 20m
      each method trains for twenty minutes on this machine: its schedule is stretched or shrunk
  linf-compare run my-recipe.toml --out results/mine --seed 3
  torchrun --nproc-per-node 2 -m comparisons run mnist-tiny --data-dir data
      trains on two GPUs, each computing half of every batch; with --device cpu in two processes

What is there.  A method that is finished in --out, by the same recipe on the same data with the same seed, is kept.
Methods that --methods leaves out are kept as well.  The command first says what it would replace, and what changed.
It replaces that only with --force; with --resume --force only what can neither be kept nor go on.

Parts of the training set.  A recipe's `select` keeps a part away from training.  That part chooses a method's model
while it is trained; the chosen model is then measured on the test set.  --held-out keeps a part away to measure on
instead of the test set, so that a recipe can be chosen; `select` takes its part of what remains.

Written to --out: results.json, table.md, certified.png, and for each method its checkpoint (linf-dist.pt, …), a
line an epoch (linf-dist.log.jsonl) and the same for TensorBoard (tensorboard/linf-dist), where that is installed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a name of `linf-compare list`, or the path of a TOML file")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with MNIST/raw, FashionMNIST/raw, …")
    parser.add_argument(
        "--data-name", metavar="NAME", help="what the data are called where they are not the published ones"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument("--methods", metavar="A,B", help="methods of the recipe, separated by commas; default: all")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: results/RECIPE")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.0,
        metavar="PART",
        help="measure on this part of the training set, left out of training, not on the test set: to choose a recipe",
    )
    parser.add_argument(
        "--budget",
        metavar="TIME",
        help="fit each method's schedule to this time on this machine (90s, 20m, 1h30m): some iterations are timed "
        "first, then all epochs are stretched or shrunk in proportion. Covers training and choosing the model, not "
        "certificates and attacks at the end. A resumed method keeps what was fitted",
    )
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run in --out stopped")
    parser.add_argument("--force", action="store_true", help="replace what an earlier run left in --out")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    # OpenMP reads this once, when torch is imported, here.  By default its threads spin where they meet, and where
    # another process holds a core each of many small steps then loses a time slice.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from linf_plugin.training.budgets import parse_duration
    from linf_plugin.training.parallel import join

    from ..recipes.recipe import load_recipe
    from ..report.tables import attacks_of
    from ..report.written import write_report
    from ..running.data import load_own
    from ..running.machine import device_of
    from ..running.run import run as run_recipe

    try:
        budget = None if args.budget is None else parse_duration(args.budget)
    except ValueError as error:
        raise ValueError(f"--budget: {error}") from error
    if not 0 <= args.held_out < 1:
        raise ValueError(f"--held-out must lie in [0, 1), got {args.held_out}")
    device = device_of(args.device)
    recipe = load_recipe(args.recipe)
    methods = None if args.methods is None else [m.strip() for m in args.methods.split(",") if m.strip()]
    out = args.out or Path("results") / recipe.name
    data = load_own(recipe.dataset, args.data_dir, args.data_name)
    with join(device) as ranks:
        results = run_recipe(
            recipe,
            data,
            out,
            methods=methods,
            seed=args.seed,
            held_out=args.held_out,
            budget=budget,
            resume=args.resume,
            force=args.force,
            progress=not args.quiet,
            ranks=ranks,
        )
    if not ranks.main:
        return 0
    print(write_report([results], out))
    models = ", ".join(f"{m}.pt" for m in results.methods)
    print(f"Written to {out}: results.json, table.md, certified.png, {models}")
    wrong = results.contradictions
    if wrong:
        print(f"linf-compare: {wrong} certificates are contradicted by {attacks_of(results)}", file=sys.stderr)
    return 1 if wrong else 0

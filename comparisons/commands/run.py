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
      goes on after an interruption: the interrupted method continues from its last finished epoch
  linf-compare run mnist-tiny --data-dir mine --data-name "my digits"
      trains on your own images, or on a part of the published ones, in the same layout and under a new name
  linf-compare run mnist-tiny --data-dir data --budget 20m
      each method trains for twenty minutes on this machine: its schedule is stretched or shrunk to fit
  linf-compare run my-recipe.toml --out results/mine --seed 3
      the recipe may name your own data: dataset = "my.npz" or "my-images", relative to the recipe
  linf-compare run digits --epochs 30
      shorter: p, ε and the learning rate keep their course
  linf-compare run digits --set methods.linf-dist.schedule.epochs=30 --set eps=8/255 --set eps_values='["8/255"]'
      other settings; `linf-compare show digits` prints those of the recipe
  torchrun --nproc-per-node 2 -m comparisons run mnist-tiny --data-dir data
      trains on two GPUs, each computing half of every batch; with --device cpu in two processes

Changed settings.  --set PATH=VALUE names a setting as the recipe does: the keys of its tables, with dots.  VALUE is
TOML: a number, true, a list, a text in double quotes; a fraction needs no quotes.  Where the epochs of a method change,
the other times of its schedule change in proportion, except for those that --set names.  Results say what was changed.
They are kept, continued and averaged only with results of the same changes, and have a folder of their own.

Earlier work in --out.  A finished method is kept if its recipe, data and seed are the same.  Methods that --methods
leaves out are kept as well.  The command first says what it would replace, and what changed.  It replaces work only
with --force; with --resume --force it replaces only work that can neither be kept nor go on.

Your own data.  An .npz file has x, images (N, C, H, W) or (N, H, W) or rows of numbers (N, F), and y, the classes from
0: x as uint8, or as floating point in [0, 1].  It may also have x_test and y_test.  A folder of images has a folder for
each class, or train and test with such folders.  Without a test part, a fifth becomes the test part, the same at each
call.  Rows of numbers need an architecture without convolutions, and no augmentation that moves pixels.

Parts of the training set.  A recipe's `select` keeps a part out of training.  This part chooses a method's model
during training; the chosen model is then measured on the test set.  --held-out keeps another part out of training
and measures on it instead of the test set, to choose a recipe.  `select` takes its part from the rest.

Several processes.  torchrun starts them; they train, certify and attack together, with the results of one process.

Failures.  A method that fails, or that needs a package which is not installed, is named at the end, and the others go
on.  A sample that a theorem certifies and an attack breaks stops the run: all about it goes to
contradiction-METHOD-SAMPLE.npz, and methods that were finished stay.

Written to --out: results.json, table.md, certified.png, and for each method its checkpoint (linf-dist.pt, …), one row
for each test sample (linf-dist.samples.csv: prediction, margin, radius by each certificate, what broke it), some
adversarial images (linf-dist.points.npz), a log with one line per epoch (linf-dist.log.jsonl), and the same for
TensorBoard (tensorboard/linf-dist) if installed.  `linf-compare diff` compares the rows of two methods.
If the recipe has a table [verify], the verdicts of complete verifiers are in linf-dist.verdicts.jsonl.

exit status: 0; 1 if a method failed or an attack broke a certified sample; 2 for a wrong request."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a name of `linf-compare list`, or the path of a TOML file")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with MNIST/raw, FashionMNIST/raw, …")
    parser.add_argument("--data-name", metavar="NAME", help="name of your data, if they are not the published data")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument("--methods", metavar="A,B", help="methods of the recipe, separated by commas; default: all")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="PATH=VALUE",
        help="change a setting of the recipe, such as methods.linf-dist.schedule.epochs=5; may be given several times. "
        "The value is TOML",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="train each method for N epochs; all times of its schedule change in proportion",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="default: results/RECIPE, with the changed settings in its name"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.0,
        metavar="PART",
        help="keep this part of the training set out of training, and measure on it instead of the test set",
    )
    parser.add_argument(
        "--budget",
        metavar="TIME",
        help="fit each method's schedule to this time on this machine (90s, 20m, 1h30m): some iterations are timed "
        "first, then all epochs are stretched or shrunk in proportion. The time covers training and the choice of the "
        "model, but not the certificates and attacks at the end. A resumed method keeps its fitted schedule",
    )
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run in --out stopped")
    parser.add_argument("--force", action="store_true", help="replace what an earlier run left in --out")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    # OpenMP reads this once, when torch is imported, which happens below.  By default its threads spin while they
    # wait.  If another process holds a core, each of many small steps then loses a time slice.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from linf_plugin.training.budgets import parse_duration
    from linf_plugin.training.parallel import join

    from ..recipes.varied import folder_of, load_varied
    from ..report.verification import breakers_of
    from ..report.written import write_report
    from ..running.contradiction import Contradiction
    from ..running.data import load_own
    from ..running.failures import MethodsFailed
    from ..running.machine import device_of
    from ..running.run import run as run_recipe

    try:
        budget = None if args.budget is None else parse_duration(args.budget)
    except ValueError as error:
        raise ValueError(f"--budget: {error}") from error
    if not 0 <= args.held_out < 1:
        raise ValueError(f"--held-out must lie in [0, 1), got {args.held_out}")
    device = device_of(args.device)
    recipe = load_varied(args.recipe, args.settings, args.epochs)
    methods = None if args.methods is None else [m.strip() for m in args.methods.split(",") if m.strip()]
    out = args.out or Path("results") / folder_of(recipe)
    data = load_own(recipe, args.data_dir, args.data_name)
    failed: list[str] = []
    with join(device) as ranks:
        try:
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
        except Contradiction as error:  # on all ranks
            if ranks.main:
                print(f"linf-compare: {error}", file=sys.stderr)
            return 1
        except MethodsFailed as error:  # on all ranks
            results, failed = error.results, error.lines()
    if not ranks.main:
        return 1 if failed else 0
    if results.methods:
        print(write_report([results], out))
        models = ", ".join(f"{m}.pt" for m in results.methods)
        print(f"Written to {out}: results.json, table.md, certified.png, METHOD.samples.csv, {models}")
    for line in failed:
        print(f"linf-compare: {line}", file=sys.stderr)
    wrong = results.contradictions
    if wrong:
        print(f"linf-compare: {wrong} certificates are contradicted by {breakers_of(results)}", file=sys.stderr)
    return 1 if wrong or failed else 0

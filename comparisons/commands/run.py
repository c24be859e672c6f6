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
      all methods; nothing to download
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
  linf-compare run digits --seeds 3 --jobs 2 --out results/all
      seeds 0, 1 and 2 in results/all/seed-0, seed-1 and seed-2; two processes at a time
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

Several processes.  With --jobs N they work side by side, each on one method and one seed.  They divide the cores among
them, unless OMP_NUM_THREADS is set, so the seconds of a method grow.  With the same number of threads all other figures
are those of --jobs 1.  The processes of torchrun train, certify and attack together, with the results of one process.

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
        "--seeds",
        type=int,
        metavar="N",
        help="run N seeds, from --seed on, each in a folder seed-K of --out, and write tables with means and standard "
        "deviations to --out",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="run up to N processes at a time, each with one method and one seed; they share the cores of this "
        "machine; default: 1. What a process prints goes to METHOD.out beside its results",
    )
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
    parser.add_argument("--no-report", action="store_true", help="write and print no table, and no picture")


def run(args: argparse.Namespace) -> int:
    # OpenMP reads this once, when torch is imported, which happens below.  By default its threads spin while they
    # wait.  If another process holds a core, each of many small steps then loses a time slice.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from linf_plugin.training.budgets import parse_duration
    from linf_plugin.training.parallel import join

    from ..recipes.varied import folder_of, load_varied
    from ..running.contradiction import Contradiction
    from ..running.data import load_own
    from ..running.machine import device_of
    from ..running.many import Runs, folders_of

    try:
        budget = None if args.budget is None else parse_duration(args.budget)
    except ValueError as error:
        raise ValueError(f"--budget: {error}") from error
    _check(args)
    device = device_of(args.device)
    recipe = load_varied(args.recipe, args.settings, args.epochs)
    methods = None if args.methods is None else [m.strip() for m in args.methods.split(",") if m.strip()]
    out = args.out or Path("results") / folder_of(recipe)
    seeds = range(args.seed, args.seed + (args.seeds or 1))
    folders = folders_of(out, seeds, several=args.seeds is not None)
    runs = Runs(recipe, folders, methods, args.held_out, budget, args.resume, args.force)
    data = load_own(recipe, args.data_dir, args.data_name)
    if args.jobs > 1:
        failed = runs.at_once(args.recipe, data, _options(args), processes=args.jobs, progress=not args.quiet)
        return _said(runs, out, failed, args)
    with join(device) as ranks:
        try:
            failed = runs.in_turn(data, progress=not args.quiet, ranks=ranks)
        except Contradiction as error:  # on all ranks
            if ranks.main:
                print(f"linf-compare: {error}", file=sys.stderr)
            return 1
    if not ranks.main:
        return 1 if failed else 0
    return _said(runs, out, failed, args)


def _check(args: argparse.Namespace) -> None:
    from linf_plugin.arguments import check_count, check_seed

    if not 0 <= args.held_out < 1:
        raise ValueError(f"--held-out must lie in [0, 1), got {args.held_out}")
    check_seed(args.seed, "--seed")
    if args.seeds is not None:
        check_count("--seeds", args.seeds, 1)
        check_seed(args.seed + args.seeds - 1, "the last seed, --seed + --seeds - 1,")
    check_count("--jobs", args.jobs, 1)
    if args.jobs > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        raise ValueError("--jobs starts processes of its own, so it cannot be used with torchrun")


def _options(args: argparse.Namespace) -> list[str]:
    """Returns the options that each of several processes gets."""
    given = {
        "--data-dir": args.data_dir,
        "--data-name": args.data_name,
        "--device": args.device,
        "--epochs": args.epochs,
        "--held-out": args.held_out or None,
        "--budget": args.budget,
    }
    found = [f"{flag}={value}" for flag, value in given.items() if value is not None]
    found += [f"--set={setting}" for setting in args.settings]
    return [*found, *["--resume"] * args.resume, *["--force"] * args.force, "--no-report"]


def _said(runs, out: Path, failed: list[str], args: argparse.Namespace) -> int:
    """Writes tables and pictures, says what was written and what failed, and returns the exit status.

    runs: a ``Runs`` that has been run.  failed: a text for each method or process that failed.
    """
    from ..report.gathered import Gathered
    from ..report.seeds import over_seeds
    from ..report.verification import breakers_of
    from ..report.written import write_report, write_tables

    found, wrong = runs.results(), 0
    if found and not args.no_report:
        texts = [write_report([results], folder) for folder, results in found]
        if args.seeds is None:
            print(texts[0])
            models = ", ".join(f"{m}.pt" for m in found[0][1].methods)
            files = "results.json, table.md, table.tex, table.csv, certified.png, METHOD.samples.csv"
            print(f"Written to {out}: {files}, {models}")
        else:
            gathered = [Gathered(results, folder, str(folder)) for folder, results in found]
            write_tables(gathered, out)
            print(over_seeds([results for _, results in found]) or texts[0])
            folders = ", ".join(folder.name for folder, _ in found)
            name = "comparison" if len(found) > 1 else "table"
            print(f"Written to {out}: {name}.md, .tex, .csv and a picture; {folders} with the results of each seed")
    for line in failed:
        print(f"linf-compare: {line}", file=sys.stderr)
    for _, results in found:
        if results.contradictions:
            wrong += results.contradictions
            count, by = results.contradictions, breakers_of(results)
            print(f"linf-compare: {count} certificates are contradicted by {by}", file=sys.stderr)
    return 1 if wrong or failed else 0

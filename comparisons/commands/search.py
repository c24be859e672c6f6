"""``linf-compare search``."""

import argparse
import os
import sys
from pathlib import Path

SUMMARY = "search settings of a method on held-out images"
DESCRIPTION = """\
Trains a method of a recipe many times with different settings, and shows the front of clean and certified accuracy.
Every trial is measured on a held-out part of the training set; none sees the test set."""
EPILOG = """\
examples:
  linf-compare search digits --method ibp --trials 30
  linf-compare search mnist-small --method ibp-shi --trials 20 --epochs 6 --data-dir data
  linf-compare search digits --method ibp --trials 60 --resume
      30 more trials after the first 30
  linf-compare search digits --method linf-dist --vary loss.ce_first=0.005..0.5:log --vary schedule.eps=0.1..0.2

What is varied.  Without --vary: the learning rate, the largest ε of training, and some weights of the loss if the
recipe gives them.  The first trial has the settings of the recipe.  Optuna chooses those of the others, for both
accuracies.  Equal calls choose equal settings on one machine.

The front.  It has the trials that no other one beats: no other one is better in one of both accuracies and at least as
good in the other.

After an interruption, --resume goes on with the trial that was interrupted, from its last finished epoch.  It refuses
to go on with other settings, other data or another --vary.  A trial that fails is named, and the others go on.

Written to --out: search.json, search.md and search.png with the trials and the front, search.journal for --resume, and
trial-NUMBER with the results of each trial.  Put the chosen settings into the recipe, with a key `trials` for the
method: tables then show how many trials stand behind its settings.

exit status: 0; 1 if all trials failed or an attack broke a certified sample; 2 for a wrong request."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a name of `linf-compare list`, or the path of a TOML file")
    parser.add_argument("--method", required=True, metavar="M", help="a method of the recipe")
    parser.add_argument(
        "--trials", type=int, default=20, metavar="N", help="number of trials, with earlier ones; default: 20"
    )
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="PATH=LOW..HIGH[:log]",
        help="vary a number of the method's loss, optimizer or schedule between LOW and HIGH; :log draws it by its "
        "logarithm. May be given several times. It replaces what is varied by default",
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with MNIST/raw, FashionMNIST/raw, …")
    parser.add_argument("--data-name", metavar="NAME", help="name of your data, if they are not the published data")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="PATH=VALUE",
        help="change a setting of the recipe in all trials, as `run` does",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="train each trial for N epochs, as `run` does")
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.1,
        metavar="PART",
        help="the part of the training set that is measured on; default: 0.1",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="default: results/RECIPE-search-METHOD, with the changed settings in its name",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--resume", action="store_true", help="go on with the search in --out")
    parser.add_argument(
        "--force", action="store_true", help="replace the search in --out; with --resume only one that cannot go on"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as for `run`
    from linf_plugin import extras

    with extras.named("search"):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    from linf_plugin.arguments import check_count, check_seed
    from linf_plugin.files import write_text
    from linf_plugin.training.parallel import join

    from ..recipes.varied import folder_of, load_varied
    from ..report.front import draw, table_of
    from ..report.plots import pyplot
    from ..results import trials
    from ..running.contradiction import Contradiction
    from ..running.data import load_own
    from ..running.machine import device_of
    from ..running.search import search

    check_count("--trials", args.trials, 1)
    check_seed(args.seed, "--seed")
    if not 0 < args.held_out < 1:
        raise ValueError(f"--held-out must lie in (0, 1), got {args.held_out}")
    vary = list(map(_range, args.vary))
    device, recipe = device_of(args.device), load_varied(args.recipe, args.settings, args.epochs)
    out = args.out or Path("results") / f"{folder_of(recipe)}-search-{args.method}"
    pyplot()  # names a missing package before the work
    data = load_own(recipe, args.data_dir, args.data_name)
    with join(device) as ranks:
        try:
            search(
                args.recipe,
                args.method,
                data,
                out,
                trials=args.trials,
                settings=args.settings,
                epochs=args.epochs,
                vary=vary,
                held_out=args.held_out,
                seed=args.seed,
                resume=args.resume,
                force=args.force,
                progress=not args.quiet,
                ranks=ranks,
            )
        except Contradiction as error:  # on all ranks
            if ranks.main:
                print(f"linf-compare: {error}", file=sys.stderr)
            return 1
    if not ranks.main:
        return 0
    found = trials.read(out / trials.FILE)
    if not found.trials:
        print(f"linf-compare: all {found.failed} trials failed; there is no front", file=sys.stderr)
        return 1
    text = table_of(found)
    write_text(out / "search.md", text)
    draw(found, out / "search.png")
    print(text)
    print(f"Written to {out}: search.json, search.md, search.png")
    return 0


def _range(text: str) -> tuple[str, float, float, bool]:
    """Reads PATH=LOW..HIGH[:log]."""
    from linf_plugin.plain import fraction

    path, _, values = text.partition("=")
    values, colon, scale = values.partition(":")
    low, _, high = values.partition("..")
    try:
        path, log, ends = path.strip(), scale == "log", (float(fraction(low)), float(fraction(high)))
    except ValueError:
        path, log, ends = "", False, (0.0, 0.0)
    if not path or (colon and not log) or not ends[0] < ends[1]:
        raise ValueError(f"--vary must be PATH=LOW..HIGH or PATH=LOW..HIGH:log with LOW < HIGH, got {text!r}")
    if log and ends[0] <= 0:
        raise ValueError(f"--vary {text}: LOW must be positive, because values are drawn by their logarithm")
    return path, *ends, log

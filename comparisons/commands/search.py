"""``linf-compare search``."""

import argparse
import os
from pathlib import Path

SUMMARY = "search settings of a method on held-out images"
DESCRIPTION = """\
Trains a method of a recipe many times with other settings, and draws the front of clean and certified accuracy.
Every trial is measured on a held-out part of the training set; none sees the test set."""
EPILOG = """\
examples:
  linf-compare search digits --method ibp-shi --trials 30
  linf-compare search mnist-small --method mtl-ibp --trials 20 --epochs 6 --data-dir data
  linf-compare search digits --method ibp-shi --trials 60 --resume
      30 more trials after the first 30
  linf-compare search digits --method linf-dist --vary loss.ce_first=0.005..0.5:log --vary schedule.eps=0.1..0.2

What is varied.  Without --vary: the learning rate, ε of training, and those weights of the loss that the recipe gives.
The first trial has the settings of the recipe.  Optuna chooses the others, for both accuracies.

Written to --out: search.json, search.md and search.png with the front, search.journal for --resume, and trial-NUMBER
with the results of each trial.  A recipe's key `trials` records how many trials stand behind its settings."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a name of `linf-compare list`, or the path of a TOML file")
    parser.add_argument("--method", required=True, metavar="M", help="a method of the recipe")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="trainings in the end; default: 20")
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="PATH=LOW..HIGH[:log]",
        help="vary a number of the method between LOW and HIGH; :log draws it by its logarithm. May be given several "
        "times, and then replaces what is varied by default",
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with MNIST/raw, FashionMNIST/raw, …")
    parser.add_argument("--data-name", metavar="NAME", help="name of your data, if they are not the published data")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument(
        "--set", action="append", default=[], dest="settings", metavar="PATH=VALUE", help="as for `run`"
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="as for `run`")
    parser.add_argument("--held-out", type=float, default=0.1, metavar="PART", help="default: 0.1")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: results/RECIPE-search-METHOD")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--resume", action="store_true", help="go on with the search in --out")
    parser.add_argument("--force", action="store_true", help="replace a search in --out")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as for `run`
    from linf_plugin.arguments import check_count
    from linf_plugin.files import write_text
    from linf_plugin.training.parallel import join

    from ..recipes.varied import load_varied
    from ..report.front import draw, table_of
    from ..running.data import load_own
    from ..running.machine import device_of
    from ..running.search import search

    check_count("--trials", args.trials, 1)
    if not 0 < args.held_out < 1:
        raise ValueError(f"--held-out must lie in (0, 1), got {args.held_out}")
    vary = [_space(text) for text in args.vary]
    recipe = load_varied(args.recipe, args.settings, args.epochs)
    out = args.out or Path("results") / f"{recipe.name}-search-{args.method}"
    with join(device_of(args.device)) as ranks:
        found = search(
            args.recipe,
            args.method,
            load_own(recipe, args.data_dir, args.data_name),
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
    text = table_of(found)
    write_text(out / "search.md", text)
    draw(found, out / "search.png")
    print(text)
    print(f"Written to {out}: search.json, search.md, search.png")
    return 0


def _space(text: str) -> tuple[str, float, float, bool]:
    path, _, values = text.partition("=")
    values, _, scale = values.partition(":")
    low, dots, high = values.partition("..")
    try:
        space = path.strip(), float(low), float(high), scale == "log"
    except ValueError:
        space = ("", 0.0, 0.0, False)
    if not space[0] or not dots or scale not in ("", "log") or not space[1] < space[2] or (space[3] and space[1] <= 0):
        raise ValueError(f"--vary must be PATH=LOW..HIGH, or with :log for 0 < LOW, got {text!r}")
    return space

"""Command line of the harness: ``linf-compare run | report | list``."""

import argparse
import os
import sys
from pathlib import Path

# OpenMP reads this once, when torch is imported, which the functions below do.  By default its threads spin where
# they meet, and where another process holds a core each of many small steps then loses a time slice.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

DESCRIPTION = """\
Trains ℓ∞-distance nets and interval-trained baselines on the same data, certifies and attacks them, and
compares.  Every ε is in units of the pixel range [0, 1]."""

RUN_EPILOG = """\
examples:
  linf-compare run digits
      about four minutes on two CPU cores; nothing to download
  linf-compare run mnist-tiny --data-dir data --methods linf-dist,ibp
      reads data/MNIST/raw/*.gz
  linf-compare run mnist-tiny --data-dir data --resume
      goes on after an interruption: finished methods are kept, an interrupted one continues from its last epoch
  linf-compare run my-recipe.toml --out results/mine --seed 3

Written to --out: results.json, table.md, certified.png, and one checkpoint a method (linf-dist.pt, …)."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="linf-compare", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run", help="train, certify, attack, compare", description=DESCRIPTION, epilog=RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("recipe", metavar="RECIPE", help="a name of `linf-compare list`, or the path of a TOML file")
    run.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with MNIST/raw, FashionMNIST/raw, …")
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    run.add_argument("--methods", metavar="A,B", help="methods of the recipe, separated by commas; default: all")
    run.add_argument("--out", type=Path, metavar="DIR", help="default: results/RECIPE")
    run.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    run.add_argument(
        "--held-out", type=float, default=0.0, metavar="PART",
        help="measure on this part of the training set, not trained on, instead of on the test set: for choosing a recipe",
    )
    run.add_argument("--resume", action="store_true", help="go on where an earlier run in --out stopped")
    run.add_argument("--quiet", action="store_true", help="no progress bars")

    report = commands.add_parser(
        "report", help="table and picture from results.json",
        description="Prints the tables of earlier runs. One folder: rewrites its table.md and certified.png. Several: "
        "writes comparison.md and comparison.png, with a panel each, to the first; runs that differ in their seed alone are "
        "also averaged.",
    )
    report.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders that `run` wrote, or copies of results.json")
    report.add_argument("--summary", action="store_true", help="print the means over seeds alone, and write nothing")

    commands.add_parser("list", help="recipes, methods and data sets", description="What `run` can be given.")
    return parser


def _device(choice: str) -> str:
    import torch

    if choice == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if choice == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here")
    return choice


def _write_report(results: list[dict], folder: Path) -> str:
    from .plots import certified_against_eps
    from .report import over_seeds, table

    text = "\n".join(filter(None, [over_seeds(results), *(table(r) for r in results)]))
    names = ("table.md", "certified.png") if len(results) == 1 else ("comparison.md", "comparison.png")
    (folder / names[0]).write_text(text)
    certified_against_eps(results, folder / names[1])
    return text


def _run(args: argparse.Namespace) -> int:
    from linf_plugin.datasets import load_dataset

    from .recipe import load_recipe
    from .runner import run

    device = _device(args.device)
    recipe = load_recipe(args.recipe)
    methods = None if args.methods is None else [m.strip() for m in args.methods.split(",") if m.strip()]
    out = args.out or Path("results") / recipe.name
    data = load_dataset(recipe.dataset, args.data_dir)
    results = run(
        recipe, data, out, methods=methods, device=device, seed=args.seed, held_out=args.held_out, resume=args.resume,
        progress=not args.quiet,
    )
    print(_write_report([results], out))
    print(f"Written to {out}: results.json, table.md, certified.png, {', '.join(f'{m}.pt' for m in results['methods'])}")
    broken = sum(m["contradictions"] for m in results["methods"].values())
    if broken:
        print(f"linf-compare: {broken} certificates are contradicted by PGD", file=sys.stderr)
    return 1 if broken else 0


def _report(args: argparse.Namespace) -> int:
    from .report import over_seeds, read

    results = [read(folder) for folder in args.folders]
    if args.summary:
        text = over_seeds(results)
        if not text:
            raise ValueError("--summary: no two of these runs differ in their seed alone")
        print(text, end="")
    else:
        first = args.folders[0]
        print(_write_report(results, first.parent if first.suffix == ".json" else first))
    return 0


def _list(args: argparse.Namespace) -> int:
    from linf_plugin.datasets import SOURCES

    from .methods import METHODS
    from .recipe import available, load_recipe

    print("recipes")
    for name in available():
        recipe = load_recipe(name)
        print(f"  {name:16} {recipe.description}")
        print(f"  {'':16} {recipe.dataset}, ε = {recipe.eps}: {', '.join(recipe.methods)}")
    print("methods")
    for key, method in METHODS.items():
        print(f"  {key:16} {method.label}; certificates {', '.join(method.certificates)}")
    print("data sets")
    for name, source in SOURCES.items():
        print(f"  {name:16} {'--data-dir with ' + source.files[0] + ' …' if source.files else 'part of scikit-learn'}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 where an attack contradicts a certificate, 2 for a wrong request."""
    args = _parser().parse_args(argv)
    try:
        return {"run": _run, "report": _report, "list": _list}[args.command](args)
    except (ValueError, TypeError, FileNotFoundError, FloatingPointError, ImportError) as error:
        print(f"linf-compare: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("linf-compare: interrupted; --resume goes on from the last finished epoch", file=sys.stderr)
        return 130

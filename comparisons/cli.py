"""Command line of the harness: ``linf-compare run | report | results | bench | list``."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

DESCRIPTION = """\
Trains ℓ∞-distance nets and interval-trained baselines on the same data, certifies and attacks them, and
compares.  Every ε is in units of the pixel range [0, 1]."""

RUN_EPILOG = """\
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

What is there.  A method that is finished in --out, by the same recipe on the same data with the same seed, is kept,
and so are methods that --methods leaves out.  What would be replaced is said first, with what changed, and needs
--force; --resume --force replaces only what can neither be kept nor go on.

Parts of the training set.  A recipe's `select` keeps a part away from training to choose a method's model by,
while it is trained; what is chosen is then measured on the test set.  --held-out keeps a part away to measure on
instead of the test set, so that a recipe can be chosen; `select` takes its part of what remains.

Written to --out: results.json, table.md, certified.png, and for each method its checkpoint (linf-dist.pt, …), a
line an epoch (linf-dist.log.jsonl) and the same for TensorBoard (tensorboard/linf-dist), where that is installed."""


BENCH_DESCRIPTION = """\
Times the distance operators, forward and backward, beside torch.cdist, blocked PyTorch, torch.compile and a matrix
product of the same size, and beside what the processor can do with the same arithmetic on registers alone.  An
operator that does not agree with its specification is not timed, and the command exits with status 1."""

BENCH_EPILOG = """\
examples:
  linf-compare bench
      all cases at p = ∞, 8 and 100.5, in some minutes: slow peers run on a slice of the batch, marked ~
  linf-compare bench --p 8,64 --cases small,conv --threads 1
  linf-compare bench --full --json bench.json
      nothing is scaled (up to an hour), and every reading is kept
  linf-compare bench --cases small --p inf --plot cost.png
      also the cost over width, 64 … 8192, and batch, 1 … 4096

cases (batch × in × out):
  overhead  16×16×16      medium  512×1024×1024    conv  32 images of 32², 64 → 64 channels, kernel 3
  small     128×64×256    large   512×5120×5120

A line of the table has our median time and rate (Gel/s: 10⁹ coordinate pairs a second), and the time of each peer:
  ×3.10   the peer takes 3.1 times as long as ours
  ÷1.30   ours takes 1.3 times as long as the matrix product (F.conv2d for conv)
  ~       measured on a slice of the batch and scaled
  !       not all of the peer's result is finite: its powers overflowed
  n/a     could not run; the reason stands below the table
  ceiling Gel/s of a loop on registers alone, measured beside it, and our share of it
"training" is the forward pass where a gradient will be asked for; it saves where each maximum is."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="linf-compare", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="train, certify, attack, compare",
        description=DESCRIPTION,
        epilog=RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("recipe", metavar="RECIPE", help="a name of `linf-compare list`, or the path of a TOML file")
    run.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with MNIST/raw, FashionMNIST/raw, …")
    run.add_argument(
        "--data-name", metavar="NAME", help="what the data are called where they are not the published ones"
    )
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    run.add_argument("--methods", metavar="A,B", help="methods of the recipe, separated by commas; default: all")
    run.add_argument("--out", type=Path, metavar="DIR", help="default: results/RECIPE")
    run.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    run.add_argument(
        "--held-out",
        type=float,
        default=0.0,
        metavar="PART",
        help="measure on this part of the training set, left out of training, not on the test set: to choose a recipe",
    )
    run.add_argument(
        "--budget",
        metavar="TIME",
        help="fit each method's schedule to this time on this machine (90s, 20m, 1h30m): some iterations are timed "
        "first, then all epochs are stretched or shrunk in proportion. Covers training and choosing the model, not "
        "certificates and attacks at the end. A resumed method keeps what was fitted",
    )
    run.add_argument("--resume", action="store_true", help="go on where an earlier run in --out stopped")
    run.add_argument("--force", action="store_true", help="replace what an earlier run left in --out")
    run.add_argument("--quiet", action="store_true", help="no progress bars")

    report = commands.add_parser(
        "report",
        help="table and picture from results.json",
        description="Prints the tables of earlier runs. One folder: rewrites its table.md and certified.png. Several: "
        "writes comparison.md and comparison.png, with a panel each, to the first; runs that differ in their seed "
        "alone are also averaged.",
    )
    report.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="folders that `run` wrote, or copies of results.json"
    )
    report.add_argument("--summary", action="store_true", help="print the means over seeds alone, and write nothing")
    report.add_argument("--force", action="store_true", help="replace a table and a picture of other runs")

    results = commands.add_parser(
        "results",
        help="our results beside the published ones",
        description="Writes a page of published rows and ours from result files: copies of results.json, a file a "
        "seed. Runs that differ in their seed alone are averaged; recipes without a file are shown as not run. A file "
        "of held-out images, or with a contradicted certificate, is listed apart, and the status is 1.",
    )
    results.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help="with .json files at any depth, or such a file; default: docs/results/recipes, …/digits, …/mnist-tiny",
    )
    page = Path("docs/results.md")
    results.add_argument("--out", type=Path, default=page, metavar="FILE", help="default: docs/results.md")
    results.add_argument("--readme", type=Path, metavar="FILE", help="also renew the short table between its marks")
    results.add_argument("--plot", type=Path, metavar="FILE", help="also draw both over clean accuracy, time (PNG)")
    results.add_argument("--check", action="store_true", help="write nothing; status 1 if a file is out of date")
    results.add_argument(
        "--force", action="store_true", help="replace a page that this command did not write, or another picture"
    )

    bench = commands.add_parser(
        "bench",
        help="time the operators beside their peers",
        description=BENCH_DESCRIPTION,
        epilog=BENCH_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_argument("--p", default="inf,8,100.5", metavar="A,B", help="exponents; default: inf,8,100.5")
    bench.add_argument("--cases", metavar="A,B", help="cases, separated by commas; default: all")
    bench.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    bench.add_argument("--threads", type=int, metavar="N", help="default: as many as torch chooses")
    bench.add_argument("--seconds", type=float, default=0.5, metavar="S", help="for each figure; default: 0.5")
    bench.add_argument("--full", action="store_true", help="slow peers on the whole batch too")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    bench.add_argument("--plot", type=Path, metavar="FILE", help="also measure and draw cost over size (PNG)")
    bench.add_argument("--force", action="store_true", help="replace the files of --json and --plot")
    bench.add_argument("--quiet", action="store_true", help="no progress bar")

    commands.add_parser("list", help="recipes, methods and data sets", description="What `run` can be given.")
    return parser


def _device(choice: str) -> str:
    import torch

    if choice == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if choice == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here")
    return choice


def _write_report(results: list[dict], folder: Path, replace: bool = True) -> str:
    """Tables and picture.  Raises WouldReplace where others are in the folder, without ``replace``."""
    from linf_plugin.files import check_absent, write_text

    from .report.plots import certified_against_eps
    from .report.tables import over_seeds, table

    text = "\n".join(filter(None, [over_seeds(results), *(table(r) for r in results)]))
    names = ("table.md", "certified.png") if len(results) == 1 else ("comparison.md", "comparison.png")
    page, picture = (folder / name for name in names)
    same = page.is_file() and page.read_text(encoding="utf-8") == text
    check_absent(page, replace or same)
    if not (same and picture.exists()):
        write_text(page, text)
        certified_against_eps(results, picture)
    return text


def load_own(recipe_dataset: str, data_dir: Path | None, data_name: str | None):
    """``load_dataset``; its messages name the flag ``--data-name``."""
    from linf_plugin.datasets import load_dataset

    try:
        return load_dataset(recipe_dataset, data_dir, data_name)
    except ValueError as error:
        raise ValueError(str(error).replace("own_name", "--data-name")) from error


def _run(args: argparse.Namespace) -> int:
    # OpenMP reads this once, when torch is imported, here.  By default its threads spin where they meet, and where
    # another process holds a core each of many small steps then loses a time slice.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from linf_plugin.training.budgets import parse_duration
    from linf_plugin.training.parallel import join

    from .recipe import load_recipe
    from .running.runner import run

    try:
        budget = None if args.budget is None else parse_duration(args.budget)
    except ValueError as error:
        raise ValueError(f"--budget: {error}") from error
    if not 0 <= args.held_out < 1:
        raise ValueError(f"--held-out must lie in [0, 1), got {args.held_out}")
    device = _device(args.device)
    recipe = load_recipe(args.recipe)
    methods = None if args.methods is None else [m.strip() for m in args.methods.split(",") if m.strip()]
    out = args.out or Path("results") / recipe.name
    data = load_own(recipe.dataset, args.data_dir, args.data_name)
    with join(device) as ranks:
        results = run(
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
    print(_write_report([results], out))
    models = ", ".join(f"{m}.pt" for m in results["methods"])
    print(f"Written to {out}: results.json, table.md, certified.png, {models}")
    broken = sum(m["contradictions"] for m in results["methods"].values())
    if broken:
        print(f"linf-compare: {broken} certificates are contradicted by PGD", file=sys.stderr)
    return 1 if broken else 0


def _say_what_has_no_digest(runs: list[dict]) -> None:
    without = sum("data" not in m for run in runs for m in run["methods"].values())
    if without:
        print(
            f"linf-compare: {without} results are of a version that kept no digest of the data: they could not be "
            "compared, and are taken to be of the published images",
            file=sys.stderr,
        )


def _report(args: argparse.Namespace) -> int:
    from .report.tables import over_seeds, read
    from .running.runner import RESULTS

    results = [read(folder) for folder in args.folders]
    _say_what_has_no_digest(results)
    if args.summary:
        text = over_seeds(results)
        if not text:
            raise ValueError("--summary: no two of these runs differ in their seed alone")
        print(text, end="")
    else:
        first = args.folders[0]
        folder = first.parent if first.suffix == ".json" else first
        own = len(results) == 1 and (first == folder or first.name == RESULTS)  # the folder's own table
        print(_write_report(results, folder, replace=own or args.force))
    return 0


def _results(args: argparse.Namespace) -> int:
    from linf_plugin.files import WouldReplace, check_absent, replacing, write_text

    from .report import published, standing
    from .report.plots import standing as draw

    folders = args.folders or [folder for folder in map(Path, standing.FOLDERS) if folder.exists()]
    groups, refused = standing.collect(standing.result_files(folders))
    _say_what_has_no_digest([{"methods": {seed: m}} for g in groups for seed, (_, m) in g.runs.items()])
    texts = standing.documents(groups, refused, args.out, args.readme)
    old = standing.stale(texts)
    panels = standing.panels(groups, published.load()) if args.plot and not args.check else None
    if not args.check:
        page = args.out.read_text(encoding="utf-8") if args.out.is_file() else standing.WRITTEN_BY
        if not page.startswith(standing.WRITTEN_BY) and not args.force:
            raise WouldReplace(f"{args.out} exists, and this command did not write it")
    with tempfile.TemporaryDirectory() as folder:
        if panels:
            picture = Path(folder) / args.plot.name
            draw(panels, picture)
            drawn = picture.read_bytes()
            check_absent(args.plot, args.force or args.plot.is_file() and args.plot.read_bytes() == drawn)
    for path in old:
        if not args.check:
            write_text(path, texts[path])
        print(f"{path}: {'not what the result files give' if args.check else 'written'}")
    if panels:
        with replacing(args.plot) as f:
            f.write(drawn)
    for name, reason in refused:
        print(f"linf-compare: {name} is refused: {reason}", file=sys.stderr)
    return 1 if refused or (args.check and old) else 0


def _bench(args: argparse.Namespace) -> int:
    import torch

    from linf_plugin.arguments import check_p
    from linf_plugin.files import check_absent, write_json

    from .report.plots import cost
    from .studies import bench
    from .studies.bench_report import table

    cases = ",".join(bench.CASES) if args.cases is None else args.cases
    cases = list(dict.fromkeys(name.strip() for name in cases.split(",")))
    if not set(cases) <= set(bench.CASES):
        raise ValueError(f"--cases {args.cases}: choose from {', '.join(bench.CASES)}")
    try:
        exponents = list(dict.fromkeys(check_p(float(p)) for p in args.p.split(",")))
    except ValueError as error:
        raise ValueError(f"--p {args.p}: {error}") from error
    if not 0 < args.seconds < float("inf"):
        raise ValueError(f"--seconds must be positive, got {args.seconds}")
    if args.threads is not None and args.threads < 1:
        raise ValueError(f"--threads must be at least 1, got {args.threads}")
    for path in (args.json, args.plot):
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}")
    for path in filter(None, (args.json, args.plot)):
        check_absent(path, args.force)
    device, threads = _device(args.device), torch.get_num_threads()
    torch.set_num_threads(args.threads or threads)
    try:
        results = bench.run(
            [bench.CASES[c] for c in cases],
            exponents,
            sweeps=args.plot is not None,
            device=device,
            seconds=args.seconds,
            full=args.full,
            progress=not args.quiet,
        )
    finally:
        torch.set_num_threads(threads)
    print(table(results))
    if args.json:
        write_json(args.json, results)
    if args.plot and results["rows"]:
        cost(results, args.plot)
    if results["wrong"]:
        print(f"linf-compare: {len(results['wrong'])} wrong operators were not timed", file=sys.stderr)
    return 1 if results["wrong"] else 0


def _list(args: argparse.Namespace) -> int:
    from linf_plugin.datasets import SOURCES

    from .methods.kinds import METHODS
    from .recipe import available, load_recipe
    from .report.tables import eps_text

    print("recipes")
    for name in available():
        recipe = load_recipe(name)
        print(f"  {name:16} {recipe.description}")
        print(f"  {'':16} {recipe.dataset}, ε = {eps_text(recipe.eps)}: {', '.join(recipe.methods)}")
    print("methods")
    for key, method in METHODS.items():
        print(f"  {key:16} {method.label}; certificates {', '.join(method.certificates)}")
    print("data sets")
    for name, source in SOURCES.items():
        print(f"  {name:16} {'--data-dir with ' + source.files[0] + ' …' if source.files else 'part of scikit-learn'}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 where a certificate, an operator or a page is wrong, 2 for a wrong request."""
    args = _parser().parse_args(argv)
    rank = os.environ.get("RANK") if "TORCHELASTIC_RUN_ID" in os.environ else None  # as torchrun sets them
    name = "linf-compare" if rank is None else f"linf-compare (rank {rank})"
    try:
        return {"run": _run, "report": _report, "results": _results, "bench": _bench, "list": _list}[args.command](args)
    except (ValueError, TypeError, OSError, FloatingPointError, ImportError) as error:
        text = error.with_flags() if hasattr(error, "with_flags") else error  # a WouldReplace; its module imports torch
        print(f"{name}: error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hint = "; --resume goes on from the last finished epoch" if args.command == "run" else ""
        print(f"{name}: interrupted{hint}", file=sys.stderr)
        return 130

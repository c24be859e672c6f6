"""``linf-compare results``."""

import argparse
import sys
import tempfile
from pathlib import Path

SUMMARY = "our results beside the published ones"
DESCRIPTION = """\
Writes a page with published rows and our rows. Our rows come from result files: copies of results.json, one file per
seed. Runs that differ only in their seed are averaged. Recipes without a file are shown as not run. A file about
held-out images, or with a contradicted certificate, is refused: the page lists it separately, and the exit
status is 1."""
EPILOG = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help="folder with .json files, or one such file; default: docs/results/recipes, …/digits, …/mnist-tiny",
    )
    page = Path("docs/results.md")
    parser.add_argument("--out", type=Path, default=page, metavar="FILE", help="default: docs/results.md")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="also rewrite the short table between its marks")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw both over clean accuracy and time (PNG)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a file is out of date")
    parser.add_argument(
        "--force", action="store_true", help="replace a page that this command did not write, or another picture"
    )


def run(args: argparse.Namespace) -> int:
    from linf_plugin.files import WouldReplace, check_absent, replacing, write_text

    from ..report import page, published
    from ..report.plots import beside_published
    from ..report.written import say_what_has_no_digest

    folders = args.folders or [folder for folder in map(Path, page.FOLDERS) if folder.exists()]
    files = page.result_files(folders)
    if args.folders and not files:
        raise ValueError(f"there are no .json files in {', '.join(map(str, folders))}")
    groups, refused = page.collect(files)
    say_what_has_no_digest([m for group in groups for m in group.entries])
    texts = page.documents(groups, refused, args.out, args.readme)
    old = page.stale(texts)
    panels = page.panels(groups, published.load()) if args.plot and not args.check else None
    if not args.check:
        before = args.out.read_text(encoding="utf-8") if args.out.is_file() else page.WRITTEN_BY
        if not before.startswith(page.WRITTEN_BY) and not args.force:
            raise WouldReplace(f"{args.out} exists, and this command did not write it")
    with tempfile.TemporaryDirectory() as folder:
        if panels:
            picture = Path(folder) / args.plot.name
            beside_published(panels, picture)
            drawn = picture.read_bytes()
            check_absent(args.plot, args.force or (args.plot.is_file() and args.plot.read_bytes() == drawn))
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

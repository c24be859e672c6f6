"""The shared part of all studies: the command line, the refusals, the written files, the exit status."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from linf_plugin import extras, plain
from linf_plugin.files import WouldReplace, check_absent, write_json, write_text

from ..results.file import FILE

Save = Callable[[dict], None]  # writes what was measured so far


@dataclass(frozen=True)
class Study:
    """One study.

    name: name of its module.  description: text for ``--help``.  add_arguments: adds the study's arguments to a parser.
    measure: (args, save) → results, as plain data.  It calls ``save`` with the results so far, so that a kill does not
    lose them.  table: results → text.  picture: file name of a picture.  plot: (results, path) → None; it draws the
    picture if the results have something to draw.  wrong: results → number of contradictions to what is proved; if it
    is not 0, the exit status is 1.  folder: args → default of ``--out``.  page: file name of the table.
    goes_on: ``measure`` keeps earlier work in ``--out``, and itself says what it would replace.
    """

    name: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[argparse.Namespace, Save], dict]
    table: Callable[[dict], str]
    wrong: Callable[[dict], int] = lambda results: 0
    picture: str | None = None
    plot: Callable[[dict, Path], None] | None = None
    folder: Callable[[argparse.Namespace], Path] | None = None
    page: str = "table.md"
    goes_on: bool = False

    def out(self, args: argparse.Namespace) -> Path:
        return args.out or (self.folder(args) if self.folder else Path("results") / self.name)


def main(study: Study, argv: list[str] | None = None, prog: str | None = None) -> int:
    """Runs a study.

    Returns the exit status: 0, 1 if the study found something wrong, 2 for a wrong request, 130 after an interruption.
    """
    parser = _parser(study, prog)
    args = parser.parse_args(argv)
    args.out = study.out(args)
    try:
        with extras.named("compare"):
            results, text = _kept(study, args.out) if args.table else _measured(study, args)
        write_text(args.out / study.page, text)
        if study.plot:
            study.plot(results, args.out / study.picture)
        print(text)
        return 1 if study.wrong(results) else 0
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        text = error.with_flags() if isinstance(error, WouldReplace) else getattr(error, "what", error)
        print(f"{parser.prog}: error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130


def _parser(study: Study, prog: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog or f"python -m comparisons.studies.{study.name}",
        description=study.description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    study.add_arguments(parser)
    own = "" if study.folder else f"default: results/{study.name}"
    parser.add_argument("--out", type=Path, metavar="DIR", help=own or "the folder to write")
    parser.add_argument("--force", action="store_true", help="measure again, and replace earlier results")
    parser.add_argument(
        "--table", action="store_true", help="measure nothing; write the table again from results.json in --out"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def _measured(study: Study, args: argparse.Namespace) -> tuple[dict, str]:
    """Returns the results and their table."""
    if not study.goes_on:
        for name in filter(None, (FILE, study.page, study.picture)):
            check_absent(args.out / name, args.force)

    def save(results: dict) -> None:
        write_json(args.out / FILE, {"study": study.name, **results})

    results = study.measure(args, save)
    save(results)
    results = json.loads(json.dumps(results))  # as a reader of the file gets them
    return results, study.table(results)


def _kept(study: Study, out: Path) -> tuple[dict, str]:
    results = read(out, study.name)
    try:
        return results, study.table(results)
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ValueError(f"{out / FILE} is no results file of the study {study.name}") from error


def read(out: Path, name: str) -> dict:
    """Returns what a study wrote to ``out``.

    Raises:
        FileNotFoundError: it wrote nothing there.
        ValueError: the file belongs to another study, or to none.
    """
    path = out / FILE
    results = plain.loads(path.read_text(encoding="utf-8"))
    if not isinstance(results, dict) or results.get("study", name) != name:  # earlier versions wrote no name
        raise ValueError(f"{path} is no results file of the study {name}")
    return results


# Shared by several studies: checks of their arguments.


def positive(args: argparse.Namespace, *names: str) -> None:
    """Raises ValueError if one of these numbers is given and is not positive."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value}")


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")


def device(args: argparse.Namespace) -> torch.device:
    """Returns the device that is asked for.  Raises ValueError if torch does not see it."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here")
    return torch.device(args.device)

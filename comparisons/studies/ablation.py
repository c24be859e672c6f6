"""What is each part of a recipe worth?  Short runs that differ in one thing each.

An ablation is data (``ablations/*.toml``): a recipe and one of its methods, settings that make its runs short, and
named changes.  All runs train without the same part of the training set, and are measured on it.  They use no test
image.
"""

import argparse
import statistics
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from tqdm import tqdm

from linf_plugin.datasets import Dataset
from linf_plugin.files import WouldReplace
from linf_plugin.progress import hidden
from linf_plugin.training.parallel import Ranks

from ..attacks.attack import of_norm
from ..certificates import norm_named
from ..recipes.recipe import Recipe, read_toml, recipe_from, with_defaults
from ..recipes.short_forms import long_method, long_recipe, named
from ..report.words import eps_text, markdown_rows, percent
from ..results.file import FILE
from ..results.settings import changes as changes_of
from ..results.settings import few, filled, settings_of
from ..running.data import load_own
from ..running.run import run
from . import shell
from .shell import Save, Study, main

DESCRIPTION = """\
Trains short forms of a recipe.  Each has one change.  All train without a part of the training set, and are measured
on that part.  Runs that are already in the result file are kept: so an interrupted command goes on where it stopped.
Runs with other settings or other data are dropped, but only with --force."""

BASE = "as it is"


@dataclass(frozen=True)
class Change:
    """One change.  table: the new entries of the method's table.  why: the question behind it, for readers."""

    why: str
    table: dict


@dataclass(frozen=True)
class Ablation:
    """An ablation.

    recipe, method: names of the recipe and of its method.  held_out: part of the training set to measure on.  short:
    settings that make every run short.  changes: name → change; the first, ``BASE``, changes nothing.  certificates:
    instead of those of the recipe.
    """

    name: str
    recipe: str
    method: str
    held_out: float
    short: dict
    changes: dict[str, Change]
    certificates: list[str] | None = None

    def build(self, change: str) -> Recipe:
        """Returns the recipe of one run.  Raises ValueError if the change does not fit it."""
        where = f"{self.name}.toml [changes.{change}]"
        path, table = read_toml(self.recipe)
        methods, defaults = table.get("methods"), table.pop("defaults", {})
        if not isinstance(methods, dict) or not isinstance(methods.get(self.method), dict):
            raise ValueError(f"{self.name}.toml: recipe {self.recipe} has no method {self.method!r}")
        if not isinstance(defaults, dict):
            raise ValueError(f"{where}: defaults of {self.recipe} must be a table, got {defaults!r}")
        method = with_defaults(*(named(long_method(each, where)) for each in (methods[self.method], defaults)))
        for other in (self.short, self.changes[change].table):
            method = merged(method, long_method(other, where))
        table = long_recipe(table, where)
        evaluation = table.get("evaluation")
        if isinstance(evaluation, dict):
            # certify only at the recipe's ε; one step of the attack still checks certificates
            attack = of_norm(norm_named(evaluation.get("norm", "linf")))[0]
            less = {"eps_values": [table.get("eps")], "attacks": [{"name": attack, "steps": 1}]}
            if self.certificates is not None:
                less["certificates"] = self.certificates
            evaluation = {**evaluation, **less}
        table = {**table, "evaluation": evaluation, "methods": {self.method: method}}
        return recipe_from(path.stem, where, table, path.parent)


def merged(table: dict, other: dict) -> dict:
    """Returns ``table`` with the entries of ``other``.

    Inner tables without a name are merged.  All else is replaced, also tables with a name, because another name has
    other arguments.
    """
    tables = {k for k, v in other.items() if isinstance(v, dict) and "name" not in v}
    both = {k for k in tables if isinstance(table.get(k), dict)}
    return {**table, **{k: merged(table[k], v) if k in both else v for k, v in other.items()}}


def available() -> dict[str, Path]:
    """Returns the ablations that come with the package: name → path."""
    return {path.stem: path for path in sorted(Path(str(files("comparisons.studies") / "ablations")).glob("*.toml"))}


def load(name: str) -> Ablation:
    """Returns an ablation, given its name or the path of a TOML file.

    Raises:
        FileNotFoundError: no ablation and no file has that name; the message lists the names.
        ValueError: the file is not valid, or one of its changes does not fit the recipe.
    """
    path = available().get(name, Path(name))
    if not path.is_file():
        raise FileNotFoundError(f"no ablation or file {name!r}; ablations: {', '.join(available())}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        changes = {key: Change(c.pop("why"), c) for key, c in table.pop("changes").items()}
        ablation = Ablation(path.stem, changes={BASE: Change("", {}), **changes}, **table)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path.name}: needs recipe, method, held_out, short, and changes with why: {error}"
        ) from error
    if BASE in changes:
        raise ValueError(f"{path.name}: {BASE!r} is the name of the run without a change")
    for name, kind in (("recipe", str), ("method", str), ("held_out", float), ("short", dict)):
        if not isinstance(getattr(ablation, name), kind):
            raise ValueError(f"{path.name}: {name} must be a {kind.__name__}, got {getattr(ablation, name)!r}")
    if not 0 < ablation.held_out < 1:  # 0 would measure on the test set
        raise ValueError(f"{path.name}: held_out must lie in (0, 1), got {ablation.held_out}")
    for change in ablation.changes:
        ablation.build(change)
    return ablation


def measure(
    ablation: Ablation,
    data: Dataset,
    out: Path,
    seeds: list[int],
    changes: list[str],
    save: Save,
    *,
    force: bool = False,
    ranks: Ranks = Ranks(),
    progress: bool = True,
) -> dict:
    """Does the runs that ``out/results.json`` lacks, saves after each run, and returns all.

    Runs in one table must differ only in a change.  So ``force`` drops runs with other data, and runs that the
    ablation no longer describes.

    Raises:
        WouldReplace: the file has such runs, without ``force``.
        ValueError: the file belongs to another ablation, or to none.
    """
    path = out / FILE
    results = _read(out, ablation)
    described = {change: settings(ablation, change) for change in ablation.changes}
    lost = {}  # index of a run → why it is dropped
    for i, r in enumerate(results["runs"]):
        if why := _changed(r, ablation, described, data, results.get("dataset")):
            lost[i] = f"{r['change']}, seed {r['seed']} ({why})"
    if lost and not force:
        raise WouldReplace(f"{path} has runs of other settings: {'; '.join(lost.values())}")
    for why in lost.values():
        print(f"dropped: {why}", file=sys.stderr)
    if any("data" not in r for r in results["runs"]):
        print(f"{path} has runs without a digest of their data: the data could not be compared", file=sys.stderr)
    results["runs"] = [r for i, r in enumerate(results["runs"]) if i not in lost]
    wanted = [(change, seed) for seed in seeds for change in changes]
    bar = tqdm(wanted, desc=ablation.name, unit="run", disable=hidden(progress))
    for change, seed in bar:
        recipe, key = ablation.build(change), {"change": change, "seed": seed}
        bar.set_postfix_str(f"{change}, seed {seed}")
        if any((r["change"], r["seed"]) == (change, seed) for r in results["runs"]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = run(recipe, data, folder, seed=seed, held_out=ablation.held_out, progress=progress, ranks=ranks)
        measured = found.methods[ablation.method]
        results["runs"].append(
            {
                **key,
                "why": ablation.changes[change].why,
                "clean": measured.clean,
                "certified": measured.proved(recipe.eps),
                "loss": measured.training.loss[-1],
                "train_seconds": measured.training.seconds,
                "epochs": measured.training.epochs,
                "parameters": measured.parameters,
                "settings": described[change],
                "data": measured.data,
            }
        )
        results |= {
            "recipe": recipe.name,
            "dataset": data.name,
            "eps": recipe.eps,
            "device": found.device,
            "images": found.test_samples,
            "versions": found.versions,
        }
        save(results)
    return results


def _read(out: Path, ablation: Ablation) -> dict:
    path = out / FILE
    if not path.exists():
        return {"ablation": ablation.name, "runs": []}
    try:
        results = shell.read(out, STUDY.name)
        for r in results["runs"]:
            r["change"], r["seed"], r["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a results file of an ablation") from error
    if results.get("ablation") != ablation.name:
        raise ValueError(f"{path} is of the ablation {results.get('ablation')!r}, not {ablation.name!r}")
    return results


def _changed(r: dict, ablation: Ablation, described: dict[str, dict], data: Dataset, dataset: str) -> str:
    """Returns why a run is not one that the ablation describes on these data; empty if it is one.

    Runs of earlier versions have no digests.  Only the name of their data is known, ``dataset``.
    """
    if r["change"] not in described:
        return "the ablation no longer has this change"
    theirs = r.get("data", {"dataset": dataset})
    ours = {key: data.identity[key] for key in theirs}
    try:
        kept = kept_settings(r, ablation)
    except (AttributeError, KeyError, TypeError, ValueError):
        kept = {}  # nonsense differs in everything
    return few(changes_of({**kept, "data": theirs}, {**described[r["change"]], "data": ours}))


def kept_settings(r: dict, ablation: Ablation) -> dict:
    """Returns the settings of a run in the form of ``settings``.

    Earlier versions wrote them under the method's name.
    """
    kept = r["settings"]
    return filled({**kept, "methods": kept["methods"][ablation.method]} if "methods" in kept else kept, ablation.method)


def settings(ablation: Ablation, change: str) -> dict:
    """Returns the settings that must agree for a run to be kept, as plain data."""
    said = settings_of(ablation.build(change), ablation.method)
    del said["name"]
    return {**said, "held_out": ablation.held_out}


def table(results: dict) -> str:
    """Returns Markdown with one row per change, compared with the runs without a change.  Reads only ``results``."""
    by_change: dict[str, list[dict]] = {}
    for r in results["runs"]:
        by_change.setdefault(r["change"], []).append(r)
    base = by_change.get(BASE, [])

    def mean(runs: list[dict], key: str) -> float:
        return statistics.fmean(r[key] for r in runs)

    rows = []
    for change, runs in by_change.items():
        # only seeds that the base had: with one seed, samples come in the same order
        pairs = [(r, b) for r in runs for b in base if r["seed"] == b["seed"]]
        gain = statistics.fmean(100 * (r["certified"] - b["certified"]) for r, b in pairs) if pairs else None
        seconds, of_base = (sum(r["train_seconds"] for r in side) for side in zip(*pairs)) if pairs else (0, 1)
        cost = seconds / of_base if pairs else None
        rows.append(
            [
                change,
                runs[0]["why"] or "the recipe, shortened",
                str(len(runs)),
                percent(mean(runs, "clean")),
                percent(mean(runs, "certified")),
                "–" if change == BASE or gain is None else f"{gain:+.2f}",
                "–" if cost is None else f"{cost:.2f}",
            ]
        )
    spread = ""
    if len(base) > 1:
        deviation = 100 * statistics.stdev(r["certified"] for r in base)
        spread = f" Its certified accuracy has a standard deviation of {deviation:.2f} over {len(base)} seeds."
    parts = [
        f"## {results['ablation']}: what is changed in a short form of `{results['recipe']}`",
        f"Percent of {results['images']} training images that were held out, {results['dataset']}, ε = "
        f'{eps_text(results["eps"])}. "{BASE}" takes {mean(base, "train_seconds") / 60:.1f} minutes of training.'
        f"{spread} Gain: of certified accuracy, same seeds. Time: of training, as a multiple. {results['device']}."
        if base
        else f"Percent of {results['images']} held-out training images.",
        markdown_rows(["change", "what", "seeds", "clean", "certified", "gain", "time"], rows),
    ]
    return "\n\n".join(parts) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ablation", metavar="ABLATION", help=", ".join([*available(), "or the path of a TOML file"]))
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="as for linf-compare run")
    parser.add_argument("--data-name", metavar="NAME", help="as for linf-compare run")
    parser.add_argument("--changes", metavar="A,B", help=f'names of changes, "{BASE}" among them; default: all')
    parser.add_argument("--seeds", default="0", metavar="0,1", help="default: 0")
    shell.add_device(parser)


def _measure(args: argparse.Namespace, save: Save) -> dict:
    ablation = load(args.ablation)
    changes = list(ablation.changes) if args.changes is None else [c.strip() for c in args.changes.split(",")]
    unknown = [c for c in changes if c not in ablation.changes]
    if unknown:
        raise ValueError(f"--changes: {unknown[0]!r} is not among {', '.join(ablation.changes)}")
    seeds, ranks = [int(s) for s in args.seeds.split(",")], Ranks(device=shell.device(args))
    data = load_own(ablation.build(BASE), args.data_dir, args.data_name)
    progress = not args.quiet
    return measure(ablation, data, args.out, seeds, changes, save, force=args.force, ranks=ranks, progress=progress)


def _folder(args: argparse.Namespace) -> Path:
    return Path("results/ablations") / Path(args.ablation).stem


STUDY = Study("ablation", DESCRIPTION, add_arguments, _measure, table, folder=_folder, goes_on=True)

if __name__ == "__main__":
    sys.exit(main(STUDY))

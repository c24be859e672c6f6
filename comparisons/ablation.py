"""What each part of a recipe is worth: short runs that differ from one another in one thing.

An ablation is data (``ablations/*.toml``): a recipe and one of its methods, what makes its runs short, and named changes.
All runs leave the same part of the training set out and are measured on it; no test image is looked at.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from tqdm import tqdm

from linf_plugin.datasets import load_dataset
from linf_plugin.training.parallel import Ranks

from .recipe import Recipe, read_toml, recipe_from
from .report import eps_key, eps_text, markdown_rows, percent
from .runner import run, write_json

DESCRIPTION = """\
Trains short forms of a recipe, each changed in one thing, without a part of the training set, and measures them on
that part.  Runs that are in the result file already are kept, so an interrupted command goes on where it stopped."""

BASE = "as it is"


@dataclass(frozen=True)
class Change:
    """table: what stands in the method's table instead.  why: what it asks, for readers of the result."""

    why: str
    table: dict


@dataclass(frozen=True)
class Ablation:
    """recipe, method: what is changed.  held_out: the part of the training set that is measured on.  short: what
    makes every run short.  changes: by name; the first, ``BASE``, changes nothing."""

    name: str
    recipe: str
    method: str
    held_out: float
    short: dict
    changes: dict[str, Change]

    def build(self, change: str) -> Recipe:
        """The recipe of one run.  Raises ValueError: the change does not fit it."""
        where = f"{self.name}.toml [changes.{change}]"
        path, table = read_toml(self.recipe)
        method = table.get("methods", {}).get(self.method)
        if method is None:
            raise ValueError(f"{self.name}.toml: recipe {self.recipe} has no method {self.method!r}")
        method = merged(merged(merged(table.pop("defaults", {}), method), self.short), self.changes[change].table)
        return recipe_from(path.stem, where, {**table, "methods": {self.method: method}})


def merged(table: dict, other: dict) -> dict:
    """``table`` with the entries of ``other``; tables within are merged, all else is replaced."""
    return {
        **table,
        **{k: merged(table[k], v) if isinstance(v, dict) and isinstance(table.get(k), dict) and "name" not in v else v
           for k, v in other.items()},
    }


def available() -> dict[str, Path]:
    """The ablations that come with the package."""
    return {path.stem: path for path in sorted(Path(str(files("comparisons") / "ablations")).glob("*.toml"))}


def load(name: str) -> Ablation:
    """An ablation by name, or from the path of a TOML file.

    Raises:
        FileNotFoundError: there is neither; the message lists the names.
        ValueError: the file is not valid, or one of its changes does not fit the recipe.
    """
    path = available().get(name, Path(name))
    if not path.is_file():
        raise FileNotFoundError(f"no ablation or file {name!r}; ablations: {', '.join(available())}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        changes = {key: Change(c.pop("why"), c) for key, c in table.pop("changes").items()}
        ablation = Ablation(path.stem, changes={BASE: Change("", {}), **changes}, **table)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name}: needs recipe, method, held_out, short, and changes with why: {error}") from error
    for change in ablation.changes:
        ablation.build(change)
    return ablation


def measure(
    ablation: Ablation, data, out: Path, seeds: list[int], changes: list[str], *, ranks: Ranks = Ranks(),
    progress: bool = True,
) -> dict:
    """Runs what ``out/results.json`` does not have yet, writes it after each run, and returns it."""
    path = out / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {"ablation": ablation.name, "runs": []}
    if results.get("ablation") != ablation.name:
        raise ValueError(f"{path} is of the ablation {results.get('ablation')!r}, not {ablation.name!r}")
    wanted = [(change, seed) for seed in seeds for change in changes]
    bar = tqdm(wanted, desc=ablation.name, unit="run", disable=not progress)
    for change, seed in bar:
        recipe = ablation.build(change)
        bar.set_postfix_str(f"{change}, seed {seed}")
        with tempfile.TemporaryDirectory() as folder:
            key = {"change": change, "seed": seed}
            done = next((r for r in results["runs"] if r["change"] == change and r["seed"] == seed), None)
            if done is not None and done["settings"] == _settings(recipe, ablation):
                continue
            found = run(
                recipe, data, folder, seed=seed, held_out=ablation.held_out, progress=progress, ranks=ranks,
            )
        measured, eps = found["methods"][ablation.method], eps_key(recipe.eps)
        results["runs"] = [r for r in results["runs"] if r is not done] + [{
            **key, "why": ablation.changes[change].why, "clean": measured["clean"],
            "certified": measured["certified"]["best"][eps], "loss": measured["loss"][-1],
            "train_seconds": measured["train_seconds"], "epochs": measured["epochs"],
            "parameters": measured["parameters"], "settings": _settings(recipe, ablation),
        }]
        results |= {
            "recipe": recipe.name, "dataset": recipe.dataset, "eps": recipe.eps, "device": found["device"],
            "images": found["test_samples"], "versions": found["versions"],
        }
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, results)
    return results


def _settings(recipe: Recipe, ablation: Ablation) -> dict:
    """What must agree for a run to be kept: plain data."""
    method = dataclasses.asdict(recipe.methods[ablation.method])
    return json.loads(json.dumps({"method": method, "attack": recipe.attack, "held_out": ablation.held_out}))


def table(results: dict) -> str:
    """Markdown: a row a change, against the runs that changed nothing; nothing is computed anew."""
    by_change: dict[str, list[dict]] = {}
    for r in results["runs"]:
        by_change.setdefault(r["change"], []).append(r)
    base = by_change.get(BASE, [])

    def mean(runs: list[dict], key: str) -> float:
        return statistics.fmean(r[key] for r in runs)

    rows = []
    for change, runs in by_change.items():
        # only runs of seeds that the base had: their samples come in the same order
        pairs = [(r, b) for r in runs for b in base if r["seed"] == b["seed"]]
        gain = statistics.fmean(100 * (r["certified"] - b["certified"]) for r, b in pairs) if pairs else None
        cost = sum(r["train_seconds"] for r, _ in pairs) / sum(b["train_seconds"] for _, b in pairs) if pairs else None
        rows.append([
            change, runs[0]["why"] or "the recipe, shortened", str(len(runs)), percent(mean(runs, "clean")),
            percent(mean(runs, "certified")),
            "–" if change == BASE or gain is None else f"{gain:+.2f}", "–" if cost is None else f"{cost:.2f}",
        ])
    spread = (
        f" Its certified accuracy has a standard deviation of {100 * statistics.stdev(r['certified'] for r in base):.2f} "
        f"over {len(base)} seeds." if len(base) > 1 else ""
    )
    return "\n\n".join([
        f"## {results['ablation']}: what is changed in a short form of `{results['recipe']}`",
        f"Percent of {results['images']} training images that were held out, {results['dataset']}, ε = "
        f"{eps_text(results['eps'])}. \"{BASE}\" takes {mean(base, 'train_seconds') / 60:.1f} minutes of training."
        f"{spread} Gain: of certified accuracy, same seeds. Time: of training, as a multiple. {results['device']}."
        if base else f"Percent of {results['images']} held-out training images.",
        markdown_rows(["change", "what", "seeds", "clean", "certified", "gain", "time"], rows),
    ]) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a wrong request."""
    parser = argparse.ArgumentParser(
        prog="python -m comparisons.ablation", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ablation", metavar="ABLATION", help=f"{', '.join(available())}, or the path of a TOML file")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="as for linf-compare run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: results/ablations/ABLATION")
    parser.add_argument("--changes", metavar="A,B", help=f"names of changes, \"{BASE}\" among them; default: all")
    parser.add_argument("--seeds", default="0", metavar="0,1", help="default: 0")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    try:
        ablation = load(args.ablation)
        changes = list(ablation.changes) if args.changes is None else [c.strip() for c in args.changes.split(",")]
        unknown = [c for c in changes if c not in ablation.changes]
        if unknown:
            raise ValueError(f"--changes: {unknown[0]!r} is not among {', '.join(ablation.changes)}")
        seeds = [int(s) for s in args.seeds.split(",")]
        data = load_dataset(ablation.build(BASE).dataset, args.data_dir)
        out = args.out or Path("results/ablations") / ablation.name
        ranks = Ranks(device=torch.device(args.device))
        results = measure(ablation, data, out, seeds, changes, ranks=ranks, progress=not args.quiet)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    text = table(results)
    (out / "table.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

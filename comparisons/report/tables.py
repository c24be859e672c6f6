"""Tables from results.json; nothing is recomputed here."""

import json
import statistics
from pathlib import Path

from linf_plugin import plain

from ..results import check_results
from ..running.existing import digests_of
from ..running.runner import RESULTS, eps_key

CERTIFICATE_LABELS = {
    "lipschitz": "Lipschitz",
    "ibp": "interval",
    "crown-ibp": "CROWN-IBP",
    "crown": "CROWN",
    "alpha-crown": "α-CROWN",
    "best": "best of all",
}


def read(path: str | Path) -> dict:
    """The results in a folder that ``run`` wrote, or in a copy of its results.json.

    Raises:
        FileNotFoundError: there is no results.json; ValueError: it is not one of ours.
    """
    path = Path(path)
    path = path if path.suffix == ".json" else path / RESULTS
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; `linf-compare run` writes it")
    try:
        results = plain.loads(path.read_text(encoding="utf-8"))
        check_results(results)
    except ValueError as error:
        raise ValueError(f"{path} is not a results file of linf-compare: {error}") from error
    return results


def percent(fraction: float | None) -> str:
    """A fraction of the images in percent; a dash where there is none."""
    return "–" if fraction is None else f"{100 * fraction:.2f}"


def eps_text(eps: float) -> str:
    """ε for a reader: the shorter of its decimal and of k/255, where ε is the float nearest to such a fraction."""
    k = round(255 * eps)
    return min(eps_key(eps), f"{k}/255", key=len) if k / 255 == eps else eps_key(eps)


def markdown_rows(header: list[str], rows: list[list[str]], text: tuple[str, ...] = ()) -> str:
    """A table; the first column and those named in ``text`` are aligned to the left."""
    lines = [header, ["---" if i == 0 or name in text else "---:" for i, name in enumerate(header)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def count(n: int) -> str:
    return f"{n / 1e6:.2f}M" if n >= 1e6 else f"{n / 1e3:.1f}k"


def images(results: dict) -> str:
    """What the accuracies are of."""
    return f"{results['test_samples']} {'held-out training' if results.get('held_out') else 'test'} images"


def table(results: dict) -> str:
    """Markdown: accuracies at the headline ε, certified accuracy over ε, and each certificate's share."""
    eps, values = eps_key(results["eps"]), [eps_key(e) for e in results["eps_values"]]
    shown = eps_text(results["eps"])
    methods = results["methods"].values()
    attack = results["attack"]
    computed = [c for c in CERTIFICATE_LABELS if any(c in m["certified"] for m in methods)]
    parts = [
        f"## {results['dataset']}, ε = {shown} (recipe `{results['recipe']}`, seed {results['seed']})",
        f"Percent of {images(results)}. ε in the pixel range [0, 1]. PGD: {attack['steps']} steps, "
        f"{attack['restarts']} random starts. Certified: by the best certificate of each image. {results['device']}.",
        markdown_rows(
            ["method", "clean", "PGD", "certified", "parameters", "pairs/image", "s/epoch", "epochs", "certify s"],
            [
                [
                    m["label"],
                    percent(m["clean"]),
                    percent(m["pgd"][eps]),
                    percent(m["certified"]["best"][eps]),
                    count(m["parameters"]),
                    count(m["pairs_per_sample"]),
                    f"{m['seconds_per_epoch']:.2f}",
                    str(m["epochs"]),
                    f"{m['certify_seconds']:.1f}",
                ]
                for m in methods
            ],
        ),
        "Certified (PGD) over ε:",
        markdown_rows(
            ["method", *(f"ε = {eps_text(e)}" for e in results["eps_values"])],
            [
                [m["label"], *(f"{percent(m['certified']['best'][e])} ({percent(m['pgd'][e])})" for e in values)]
                for m in methods
            ],
        ),
        f"Each certificate alone at ε = {shown}:",
        markdown_rows(
            ["method", *(CERTIFICATE_LABELS[c] for c in computed)],
            [[m["label"], *(percent(m["certified"].get(c, {}).get(eps)) for c in computed)] for m in methods],
        ),
    ]
    broken = sum(m["contradictions"] for m in methods)
    parts.append(
        "No image is certified at an ε at which PGD broke it."
        if broken == 0
        else f"**{broken} certificates are contradicted by PGD: a bound is wrong.**"
    )
    return "\n\n".join(parts) + "\n"


def mean(fractions: list[float]) -> str:
    """In percent, with the sample's standard deviation where there are several."""
    spread = f" ± {100 * statistics.stdev(fractions):.2f}" if len(fractions) > 1 else ""
    return percent(statistics.fmean(fractions)) + spread


def without_seed(m: dict) -> str:
    """What the runs of a method must have in common to be averaged: recipe, settings, data."""
    return json.dumps([m["identity"] | {"seed": None}, digests_of(m)], sort_keys=True)


def over_seeds(runs: list[dict]) -> str:
    """Markdown: means and standard deviations of runs that differ in nothing but the seed, a row a method; empty
    where no method was run with two seeds."""
    groups: dict[str, dict[int, tuple[dict, dict]]] = {}
    for run in runs:
        for m in run["methods"].values():
            groups.setdefault(without_seed(m), {})[m["identity"]["seed"]] = run, m
    if all(len(group) < 2 for group in groups.values()):
        return ""
    rows = []
    for group in groups.values():
        run, first = next(iter(group.values()))
        eps, measured = eps_key(run["eps"]), [m for _, m in group.values()]
        rows.append(
            [
                f"{run['recipe']}: {first['label']}",
                eps_text(run["eps"]),
                ", ".join(map(str, group)),
                images(run),
                mean([m["clean"] for m in measured]),
                mean([m["pgd"][eps] for m in measured]),
                mean([m["certified"]["best"][eps] for m in measured]),
                f"{statistics.fmean(m['seconds_per_epoch'] for m in measured):.2f}",
            ]
        )
    header = ["recipe: method", "ε", "seeds", "of", "clean %", "PGD %", "certified %", "s/epoch"]
    return "## Over seeds: mean ± standard deviation\n\n" + markdown_rows(header, rows) + "\n"

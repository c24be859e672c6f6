"""Our results beside the published ones: docs/results.md and the short table in README.

Both are made only from published.toml, from result files (copies of the results.json of ``linf-compare run``), and
from the recipes that come with the package.  Nothing is measured again.
"""

import math
import re
import statistics
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from linf_plugin.datasets import SOURCES

from ..attacks.attack import label_of as attack_label
from ..certificates import norm_named, symbol_of_norm
from ..recipes.recipe import available, load_recipe
from ..results.file import read
from ..results.schema import NO_RECIPE, MethodResult, Results, same_settings, with_changes
from . import published
from .published import Published
from .seeds import attacked
from .verification import breakers_of
from .words import NONE, count, eps_text, markdown_rows, mean, recipe_of

FOLDERS = ("docs/results/recipes", "docs/results/digits", "docs/results/mnist-tiny")  # read by default
WRITTEN_BY = "<!-- Written by `linf-compare results"  # how docs/results.md begins
BEGIN, END = "<!-- results -->", "<!-- /results -->"
HEADER = ["method", "net", "clean %", "PGD %", "certified %", "s/epoch", "minutes", "hardware", "from"]
SHORT_HEADER = ["data set, ε", "method", "clean %", "PGD %", "certified %", "from"]
TEXT = ("method", "net", "hardware", "from")  # columns without figures
PGD = "pgd"  # the attack that the column shows
ABOUT = """Percent of the whole test set; ε in the pixel range [0, 1]; ± is the standard deviation over seeds.
**Bold** rows were measured with this package; their files are in [results](results/). They are certified by the best
certificate of each image and attacked by PGD with steps × random starts; minutes are those of training. All other
rows are published. They have an attack of their own, and their hardware is given if the source gives it: compare
accuracies, not times. Nets: distance layers × width + hidden units of a head. A pair is one |x − w| or one
multiplication in the forward pass of an image."""
SHORT_ABOUT = """Percent of the whole test set, ± standard deviation over seeds. **Bold** rows were measured with
this package. The others are published: interval training, and the best certified ℓ∞-distance nets and SortNets.
[docs/results.md](docs/results.md) has all rows, with other ε, times, hardware and what was not run."""


@dataclass(frozen=True)
class Group:
    """One method of one recipe, in runs that differ only in the seed.

    dataset: the one beside whose published rows it stands; the runs have the name of their own data.
    runs: seed → the results of the run, and the method's entry in them.
    """

    recipe: str
    dataset: str
    eps: float
    method: str
    runs: dict[int, tuple[Results, MethodResult]]

    @property
    def first(self) -> tuple[Results, MethodResult]:
        return next(iter(self.runs.values()))

    @property
    def entries(self) -> list[MethodResult]:
        return [m for _, m in self.runs.values()]

    def mean(self, figure: Callable[[MethodResult], float]) -> float:
        """Returns the mean over the seeds of a figure of the method's entry."""
        return statistics.fmean(map(figure, self.entries))

    def minutes(self) -> float:
        """Returns the minutes of training, or of its epochs if no total was written."""

        def seconds(m: MethodResult) -> float:
            t = m.training
            return t.epochs * t.seconds_per_epoch if t.seconds is None else t.seconds

        return self.mean(seconds) / 60

    @property
    def label(self) -> str:
        return self.first[1].label

    def accuracies(self) -> list[str]:
        """Returns the clean, PGD and certified accuracy, as cells."""
        found = self.entries
        return [
            mean([m.clean for m in found]),
            attacked(found, PGD, self.eps),
            mean([m.proved(self.eps) for m in found]),
        ]

    def devices(self) -> list[str]:
        """Returns the devices on which the runs were measured, each once."""
        return list(dict.fromkeys(m.device or run.device for run, m in self.runs.values()))

    def seeds(self) -> str:
        return f"seed{'s' * (len(self.runs) > 1)} {', '.join(map(str, self.runs))}"


def result_files(paths: list[str | Path]) -> list[Path]:
    """Returns the given files, and every .json file below a given folder.

    Raises:
        FileNotFoundError: a file or folder does not exist.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give folders of result files, or such files")
        found |= dict.fromkeys(sorted(path.rglob("*.json")) if path.is_dir() else [path])
    return list(found)


def refusal(run: Results) -> str | None:
    """Returns why a file is not shown among the results, or None."""
    if run.recipe == NO_RECIPE:
        return "measured by `linf-compare certify`, on nets that no recipe trained"
    if run.contradictions:
        return f"{run.contradictions} certificates are contradicted by {breakers_of(run)}: a bound is wrong"
    if run.norm != math.inf:
        return (
            f"measured on {symbol_of_norm(run.norm)} balls; the published rows are of {symbol_of_norm(math.inf)} balls"
        )
    if run.held_out:
        return f"measured on held-out training images (held_out = {run.held_out}), not on the test set"
    known = SOURCES[run.dataset].published if run.dataset in SOURCES else None
    if known and any(m.data is not None and m.digests != known for m in run.methods.values()):
        return f"not of the images published as {run.dataset}: their digests are others"
    return None


def collect(files: list[Path]) -> tuple[list[Group], list[tuple[str, str]]]:
    """Returns the groups of all files that can be shown, and (name, reason) of each refused file.

    Raises:
        ValueError: a file is not one of ours, or two files have different figures for one method and seed.
    """
    refused, entries = [], []
    for path in files:
        run, name = read(path), f"{path.parent.name}/{path.name}"
        if reason := refusal(run):
            refused.append((name, reason))
        else:
            entries += [(path, run, key, m) for key, m in run.methods.items()]
    groups: dict[tuple, Group] = {}
    seen = {}
    for same, (path, run, key, m) in zip(same_settings([m for *_, m in entries]), entries):
        seed = m.identity.seed
        group = groups.setdefault(same, Group(run.recipe, published.load().of(run.dataset), run.eps, key, {}))
        if group.runs.setdefault(seed, (run, m))[1] != m:
            raise ValueError(f"{path} and {seen[same, seed]} both have seed {seed} of {key}, and they differ")
        seen.setdefault((same, seed), path)
    ordered = [
        Group(g.recipe, g.dataset, g.eps, g.method, dict(sorted(g.runs.items())))
        for g in sorted(groups.values(), key=lambda g: g.recipe)
    ]
    return ordered, refused


def shipped() -> dict[str, tuple[str, float, dict[str, str]]]:
    """Returns the recipes of the package with ℓ∞ balls: name → data set, ε, and the label of each method."""
    return {
        recipe.name: (recipe.dataset, recipe.eps, {key: m.label for key, m in recipe.methods.items()})
        for recipe in map(load_recipe, available())
        if norm_named(recipe.evaluation.norm) == math.inf  # as the published rows
    }


def _missing(groups: list[Group], recipes: dict, dataset: str, eps: float) -> list[tuple[str, str]]:
    """Returns the recipes of a data set and ε that lack results, with the labels of the methods without one."""
    there = {(g.recipe, g.method) for g in groups if not g.first[0].changed}
    missing = {
        name: [label for key, label in labels.items() if (name, key) not in there]
        for name, (its_dataset, its_eps, labels) in recipes.items()
        if (its_dataset, its_eps) == (dataset, eps)
    }
    return [(name, ", ".join(labels)) for name, labels in missing.items() if labels]


def _published_accuracies(row: published.Row) -> list[str]:
    figures, spread = (row.clean, row.pgd, row.certified), row.spread or (None, None, None)
    return [NONE if f is None else str(f) if s is None else f"{f} ± {s}" for f, s in zip(figures, spread)]


def _cite(row: published.Row, known: Published) -> str:
    arxiv = known.sources[row.source]["arxiv"]
    runs = f", mean of {row.runs} runs" if row.runs > 1 else ""
    by = f"{row.by}, in " if row.by else ""
    return f"{by}[{arxiv}](https://arxiv.org/abs/{arxiv}), {row.table}{runs}"


def _published_row(row: published.Row, known: Published) -> list[str]:
    return [
        row.method,
        ", ".join(filter(None, (row.net, row.flops and f"{row.flops} FLOPs"))) or NONE,
        *_published_accuracies(row),
        NONE if row.seconds is None else str(row.seconds),
        NONE,
        row.hardware or NONE,
        _cite(row, known),
    ]


def _marked(group: Group, known: Published) -> str:
    """Returns the label in bold, with a mark if the data are nearly the published ones."""
    return f"**{group.label}**" + " †" * (group.first[0].dataset in known.copies)


def _footnotes(groups: list[Group], known: Published) -> list[str]:
    """Returns what the marks mean."""
    names = dict.fromkeys(g.first[0].dataset for g in groups if g.first[0].dataset in known.copies)
    return [_wrapped(f"† Measured on {name}: {known.copies[name][1]}.") for name in names]


def _our_row(group: Group, known: Published) -> list[str]:
    run, m = group.first
    attacks = [
        f"{attack_label(name)} {' × '.join(map(str, attack.arguments.values()))}"
        for name, attack in run.attacks.items()
    ]
    return [
        _marked(group, known),
        f"{count(m.pairs_per_sample)} pairs, {m.training.epochs} epochs",
        *group.accuracies(),
        f"{group.mean(lambda m: m.training.seconds_per_epoch):.2f}",
        f"{group.minutes():.1f}",
        "; ".join(group.devices()),
        ", ".join([recipe_of(run), group.seeds(), *attacks]),
    ]


def _settings(groups: list[Group], recipes: dict, known: Published) -> list[tuple[str, float]]:
    """Returns each (data set, ε) with a published row, a result or a recipe, in the order of the page."""
    found = {(row.dataset, float(row.eps)) for row in known.rows}
    found |= {(g.dataset, g.eps) for g in groups} | {(dataset, eps) for dataset, eps, _ in recipes.values()}
    order = list(known.datasets)
    return sorted(found, key=lambda s: (order.index(s[0]) if s[0] in order else len(order), *s))


def _title(dataset: str, eps: float, known: Published) -> str:
    return f"{known.datasets[dataset][0] if dataset in known.datasets else dataset}, ε = {eps_text(eps)}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def page(groups: list[Group], refused: list, recipes: dict, known: Published) -> str:
    """Returns the text of docs/results.md."""
    parts = [
        f"{WRITTEN_BY} --readme README.md`; edits are lost. -->",
        "# Results beside the published ones",
        _wrapped(ABOUT),
    ]
    for dataset, eps in _settings(groups, recipes, known):
        rows = [_published_row(row, known) for row in known.at(dataset, eps)]
        ours = [g for g in groups if (g.dataset, g.eps) == (dataset, eps)]
        rows += [_our_row(g, known) for g in ours]
        rows += [
            [f"**{labels}**", NONE, "not run", *[NONE] * 5, f"recipe `{name}`"]
            for name, labels in _missing(groups, recipes, dataset, eps)
        ]
        parts += [f"## {_title(dataset, eps, known)}", markdown_rows(HEADER, rows, TEXT), *_footnotes(ours, known)]
    parts += [
        "## Published rows",
        "\n".join(
            f"- [{s['arxiv']}](https://arxiv.org/abs/{s['arxiv']}): {s['title']}. [Repository]({s['repository']})."
            + (f" {s['note']}" if "note" in s else "")
            for s in known.sources.values()
        ),
    ]
    if refused:
        parts += ["## Refused", "\n".join(f"- `{name}`: {reason}." for name, reason in refused)]
    return "\n\n".join(parts) + "\n"


def short(groups: list[Group], known: Published) -> str:
    """Returns README's table.

    At each data set's headline ε it has published interval training, the best published ℓ∞ row, and our rows.
    """
    rows, shown = [], []
    for dataset, (_, headline) in known.datasets.items():
        eps = float(headline)
        there = sorted(known.at(dataset, eps), key=lambda row: row.certified, reverse=True)
        best = [row for row in there if row.family == "distance"][:1]
        interval = {row.method: row for row in reversed(there) if row.family == "interval"}  # the best row of each name
        lines = [[row.method, *_published_accuracies(row), _cite(row, known)] for row in (*interval.values(), *best)]
        ours = [g for g in groups if (g.dataset, g.eps) == (dataset, eps)]
        shown += ours
        lines += [[_marked(g, known), *g.accuracies(), f"{recipe_of(g.first[0])}, {g.seeds()}"] for g in ours]
        if not ours:
            lines.append(["**this package**", "not run", NONE, NONE, NONE])
        rows += [[_title(dataset, eps, known) if i == 0 else "", *line] for i, line in enumerate(lines)]
    return "\n\n".join([_wrapped(SHORT_ABOUT), markdown_rows(SHORT_HEADER, rows, TEXT), *_footnotes(shown, known)])


def panels(groups: list[Group], known: Published) -> list[dict]:
    """Returns what ``plots.beside_published`` draws: one panel for each data set with results at its headline ε.

    Accuracies are in percent.  Ours are (mean, standard deviation), with None as the deviation of one seed.  Published
    rows of the family "other" are only on the page.
    """
    found = []
    for dataset, (_, headline) in known.datasets.items():
        ours = [g for g in groups if (g.dataset, g.eps) == (dataset, float(headline))]
        if ours:
            found.append(
                {
                    "title": _title(dataset, float(headline), known),
                    "published": _levels([r for r in known.at(dataset, float(headline)) if r.family != "other"], known),
                    "ours": [_point(g, known) for g in ours],
                }
            )
    return found


def _levels(rows: list[published.Row], known: Published) -> list[dict]:
    """Returns published rows for a picture.  Rows of one method are told apart by their sources."""
    names = [row.method for row in rows]
    return [
        {
            "family": row.family,
            "label": row.method + f" [{known.sources[row.source]['arxiv']}]" * (names.count(row.method) > 1),
            "clean": float(row.clean),
            "certified": float(row.certified),
        }
        for row in rows
    ]


def _point(group: Group, known: Published) -> dict:
    def spread(figure: Callable[[MethodResult], float]) -> tuple[float, float | None]:
        values = [100 * figure(m) for m in group.entries]
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None

    return {
        "kind": group.first[1].kind,
        "label": group.label,  # the mark is that of the method, whatever the data
        "recipe": with_changes(group.recipe, group.first[0].changed) + " †" * (group.first[0].dataset in known.copies),
        "minutes": group.minutes(),
        "device": group.devices()[0],
        "clean": spread(lambda m: m.clean),
        "certified": spread(lambda m: m.proved(group.eps)),
    }


def with_block(text: str, block: str) -> str:
    """Returns ``text`` with ``block`` between the two marks.

    Raises:
        ValueError: ``text`` does not have each mark once, in order.
    """
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if text.count(BEGIN) != 1 or text.count(END) != 1 or not pattern.search(text):
        raise ValueError(f"--readme: the file needs the lines {BEGIN} and {END}, once each")
    return pattern.sub(lambda _: f"{BEGIN}\n{block}\n{END}", text)


def documents(groups: list[Group], refused: list, out: Path, readme: Path | None) -> dict[Path, str]:
    """Returns the texts that ``out`` and ``readme`` should hold."""
    known = published.load()
    texts = {out: page(groups, refused, shipped(), known)}
    if readme is not None:
        texts[readme] = with_block(readme.read_text(encoding="utf-8"), short(groups, known))
    return texts


def stale(texts: dict[Path, str]) -> list[Path]:
    """Returns the files that do not hold these texts."""
    return [p for p, text in texts.items() if not p.is_file() or p.read_text(encoding="utf-8") != text]

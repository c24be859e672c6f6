"""Our results beside the published ones: docs/results.md and the short table in README.

Both are made only from published.toml, from result files (copies of the results.json of ``linf-compare run``), and
from the recipes that come with the package.  Nothing is measured again.
"""

import math
import re
import statistics
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

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
PGD = {math.inf: "pgd", 2.0: "pgd-l2"}  # norm → the attack that the column shows
ABOUT = """Percent of the whole test set; ε in the pixel range [0, 1]; ± is the standard deviation over seeds.
**Bold** rows were measured with this package; their files are in [results](results/). They are certified by the best
certificate of each image and attacked by PGD with steps × random starts; minutes are those of training. All other
rows are published. They have an attack of their own, and their hardware is given if the source gives it: compare
accuracies, not times. Nets: distance layers × width + hidden units of a head. A pair is one |x − w| or one
multiplication in the forward pass of an image. Balls are those of ℓ∞, except where the title says ℓ2. Results in two
norms cannot be compared, so each norm has its own sections; those of ℓ2 come last."""
SHORT_ABOUT = """Percent of the whole test set in ℓ∞ balls, ± standard deviation over seeds. **Bold** rows were measured
with this package. The others are published: interval training, and the best certified ℓ∞-distance nets and SortNets.
[docs/results.md](docs/results.md) has all rows, with other ε, times, hardware and what was not run."""


@dataclass(frozen=True)
class Group:
    """One method of one recipe at one ε, in runs that differ only in the seed.

    dataset: the one beside whose published rows it stands; the runs have the name of their own data.
    runs: seed → the results of the run, and the method's entry in them.
    """

    recipe: str
    dataset: str
    eps: float
    method: str
    runs: dict[int, tuple[Results, MethodResult]]
    norm: float = math.inf

    @property
    def setting(self) -> tuple[str, float, float]:
        """The data set, ε and norm."""
        return self.dataset, self.eps, self.norm

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
            attacked(found, PGD.get(self.norm, ""), self.eps),
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
    known, refused, entries = published.load(), [], []
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
        dataset = known.of(run.dataset)
        group = groups.setdefault(same, Group(run.recipe, dataset, run.eps, key, {}, run.norm))
        if group.runs.setdefault(seed, (run, m))[1] != m:
            raise ValueError(f"{path} and {seen[same, seed]} both have seed {seed} of {key}, and they differ")
        seen.setdefault((same, seed), path)
    ordered = [
        replace(g, eps=eps, runs=dict(sorted(g.runs.items())))
        for g in sorted(groups.values(), key=lambda g: g.recipe)
        for eps in known.shown_at(g.dataset, g.norm, g.eps, g.first[0].eps_values)
    ]
    return ordered, refused


class Shipped(NamedTuple):
    """A recipe: its data set, its headline ε, the label of each method, its norm, and other ε at which it is shown."""

    dataset: str
    eps: float
    labels: dict[str, str]
    norm: float = math.inf
    others: tuple[float, ...] = ()

    @property
    def settings(self) -> list[tuple[str, float, float]]:
        return [(self.dataset, eps, self.norm) for eps in (self.eps, *self.others)]


def shipped() -> dict[str, Shipped]:
    """Returns the recipes of the package by name."""
    found = {}
    for recipe in map(load_recipe, available()):
        norm, labels = norm_named(recipe.evaluation.norm), {key: m.label for key, m in recipe.methods.items()}
        _, *others = published.load().shown_at(recipe.dataset, norm, recipe.eps, recipe.evaluation.eps_values)
        found[recipe.name] = Shipped(recipe.dataset, recipe.eps, labels, norm, tuple(others))
    return found


def _missing(groups: list[Group], recipes: dict[str, Shipped], setting: tuple) -> list[tuple[str, str]]:
    """Returns the recipes of a setting that lack results, with the labels of the methods without one."""
    there = {(g.recipe, g.method) for g in groups if not g.first[0].changed}
    missing = {
        name: [label for key, label in recipe.labels.items() if (name, key) not in there]
        for name, recipe in recipes.items()
        if setting in recipe.settings
    }
    return [(name, ", ".join(labels)) for name, labels in missing.items() if labels]


def _published_accuracies(row: published.Row) -> list[str]:
    return [NONE if figure is None else figure for figure in row.accuracies]


def _cite(row: published.Row, known: Published) -> str:
    runs = f", mean of {row.runs} runs" if row.runs > 1 else ""
    by = f"{row.by}, in " if row.by else ""
    return f"{by}{known.link(row.source)}, {row.table}{runs}"


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


def _settings(groups: list[Group], recipes: dict, known: Published) -> list[tuple[str, float, float]]:
    """Returns each (data set, ε, norm) with a published row, a result or a recipe, in the order of the page."""
    found = {(row.dataset, float(row.eps), row.norm) for row in known.rows} | {g.setting for g in groups}
    found |= {setting for recipe in recipes.values() for setting in recipe.settings}
    order = list(known.datasets)
    return sorted(found, key=lambda s: (-s[2], order.index(s[0]) if s[0] in order else len(order), *s))


def _title(dataset: str, eps: float, norm: float, known: Published) -> str:
    name = known.datasets[dataset][0] if dataset in known.datasets else dataset
    return f"{name}, ε = {eps_text(eps)}" + f" in {symbol_of_norm(norm)}" * (norm != math.inf)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def page(groups: list[Group], refused: list, recipes: dict, known: Published) -> str:
    """Returns the text of docs/results.md."""
    parts = [
        f"{WRITTEN_BY} --readme README.md`; edits are lost. -->",
        "# Results beside the published ones",
        _wrapped(ABOUT),
    ]
    for setting in _settings(groups, recipes, known):
        rows = [_published_row(row, known) for row in known.at(*setting)]
        ours = [g for g in groups if g.setting == setting]
        rows += [_our_row(g, known) for g in ours]
        rows += [
            [f"**{labels}**", NONE, "not run", *[NONE] * 5, f"recipe `{name}`"]
            for name, labels in _missing(groups, recipes, setting)
        ]
        parts += [f"## {_title(*setting, known)}", markdown_rows(HEADER, rows, TEXT), *_footnotes(ours, known)]
    parts += [
        "## Published rows",
        "\n".join(
            f"- {known.link(key)}: {s['title']}."
            + (f" [Repository]({s['repository']})." if "repository" in s else "")
            + (f" {s['note']}" if "note" in s else "")
            for key, s in known.sources.items()
        ),
    ]
    if refused:
        parts += ["## Refused", "\n".join(f"- `{name}`: {reason}." for name, reason in refused)]
    return "\n\n".join(parts) + "\n"


def short(groups: list[Group], known: Published) -> str:
    """Returns README's table, about ℓ∞ balls only.

    At each data set's headline ε it has published interval training, the best published ℓ∞ row, and our rows.
    """
    rows, shown = [], []
    for dataset, (_, headline) in known.datasets.items():
        eps = float(headline)
        there = sorted(known.at(dataset, eps), key=lambda row: row.certified, reverse=True)
        best = [row for row in there if row.family == "distance"][:1]
        interval = {row.method: row for row in reversed(there) if row.family == "interval"}  # the best row of each name
        lines = [[row.method, *_published_accuracies(row), _cite(row, known)] for row in (*interval.values(), *best)]
        ours = [g for g in groups if g.setting == (dataset, eps, math.inf)]
        shown += ours
        lines += [[_marked(g, known), *g.accuracies(), f"{recipe_of(g.first[0])}, {g.seeds()}"] for g in ours]
        if not ours:
            lines.append(["**this package**", "not run", NONE, NONE, NONE])
        rows += [[_title(dataset, eps, math.inf, known) if i == 0 else "", *line] for i, line in enumerate(lines)]
    return "\n\n".join([_wrapped(SHORT_ABOUT), markdown_rows(SHORT_HEADER, rows, TEXT), *_footnotes(shown, known)])


def panels(groups: list[Group], known: Published) -> list[dict]:
    """Returns what ``plots.beside_published`` draws: one panel for each data set with results at its headline ε.

    A data set may have one panel for each norm.

    Accuracies are in percent.  Ours are (mean, standard deviation), with None as the deviation of one seed.  Published
    rows of the family "other" are only on the page.
    """
    found = []
    for setting in known.headlines():
        ours = [g for g in groups if g.setting == setting]
        if ours:
            found.append(
                {
                    "title": _title(*setting, known),
                    "published": _levels([r for r in known.at(*setting) if r.family != "other"], known),
                    "ours": [_point(g, known) for g in ours],
                }
            )
    return found


def _levels(rows: list[published.Row], known: Published) -> list[dict]:
    """Returns published rows for a picture.  Rows of one method are told apart by their sources, or their tables."""

    def label(row: published.Row) -> str:
        same = [other for other in rows if other.method == row.method]
        table = f", {row.table}" if sum(other.source == row.source for other in same) > 1 else ""
        return row.method + f" [{known.name_of(row.source)}{table}]" * (len(same) > 1)

    return [
        {"family": row.family, "label": label(row), "clean": float(row.clean), "certified": float(row.certified)}
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

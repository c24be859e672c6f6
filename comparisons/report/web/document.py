"""The page: what stands on it, in order, from results and the files beside them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linf_plugin import extras
from linf_plugin.files import check_absent

from ...certificates import symbol_of_norm
from ...results.schema import NO_RECIPE
from ..duels import about_duels, duels, proved
from ..gathered import Gathered, check_comparable
from ..rows import Row, rows_of, titles
from ..tables import attacks_in_words, verdict
from ..words import eps_text, images, in_its_norm, recipe_of, unit
from . import colours, curves, grids, radii, spent
from .gallery import Shown, gallery, read_points
from .grids import Grid

WRITTEN_BY = "<!doctype html>\n<!-- Written by `linf-compare report --html`"  # how the page begins
FOLDER = Path(__file__).parent


@dataclass
class Section:
    """A part of the page: a heading, and below it figures, tables or images.

    figures: (SVG, caption) of each.  tables: with their captions.  albums: title of a method → its images.
    missing: why something is not shown.
    """

    name: str
    title: str
    figures: list[tuple[Any, str]] = field(default_factory=list)
    tables: list[tuple[Grid, str]] = field(default_factory=list)
    albums: dict[str, list[Shown]] = field(default_factory=dict)
    about: str = ""
    missing: list[str] = field(default_factory=list)


def document(runs: list[Gathered]) -> str:
    """Returns the page.

    Raises:
        ValueError: the runs have other data or another ε, as ``check_comparable`` says; or a file beside them is not
            one of ours.
    """
    check_comparable(runs)
    with extras.named():
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

    rows = rows_of([run.results for run in runs])
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    light, dark = colours.themes(rows)
    return environment.get_template("page.html.j2").render(
        written_by=WRITTEN_BY,
        heading=_heading(rows),
        facts=_facts(runs, rows),
        verdicts=list(dict.fromkeys(verdict(run.results).strip("*") for run in runs)),
        sections=_sections(runs, rows),
        light=light,
        dark=dark,
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        script=(FOLDER / "page.js").read_text(encoding="utf-8"),
    )


def _heading(rows: list[Row]) -> str:
    run = rows[0].first[0]
    return f"{run.dataset}, ε = {eps_text(run.eps)}{in_its_norm(run)}"


def _facts(runs: list[Gathered], rows: list[Row]) -> list[tuple[str, str]]:
    """Returns what was measured, and how: (term, description) of each fact."""
    results = [run.results for run in runs]
    first, measured = results[0], [m for run in results for m in run.methods.values()]
    versions = _each(
        ", ".join(f"{k} {v}" for k, v in (m.versions or r.versions or {}).items())
        for r in results
        for m in r.methods.values()
    )
    dates = sorted({m.date[:16].replace("T", " ") for m in measured if m.date})
    found = {
        "Data": f"{first.dataset}, {_each(images(run) for run in results)}",
        "Recipe": _each(recipe_of(run).replace("`", "") if run.recipe != NO_RECIPE else "given net" for run in results),
        "ε": f"{eps_text(first.eps)} in {symbol_of_norm(first.norm)}, {unit(first)}; curve at "
        + ", ".join(map(eps_text, sorted({eps for run in results for eps in run.eps_values}))),
        "Seeds": _seeds(rows),
        "Attacks": _each(attacks_in_words(run) or "none" for run in results),
        "Hardware": hardware(rows),
        "Measured": " to ".join(dict.fromkeys([*dates[:1], *dates[-1:]])) + " UTC" * bool(dates),
        "Versions": versions,
        "Commit": _each(m.commit for m in measured if m.commit),
    }
    return [(term, text or "not recorded") for term, text in found.items()]


def _each(texts) -> str:
    return "; ".join(filter(None, dict.fromkeys(texts)))


def _seeds(rows: list[Row]) -> str:
    return ", ".join(map(str, sorted({seed for row in rows for seed in row.runs if seed is not None}))) or "none"


def hardware(rows: list[Row]) -> str:
    """Returns the devices and processors on which the rows were measured."""
    measured = [(run, run.methods[name]) for row in rows for run, name in row.runs.values()]
    return _each((m.device or run.device) + f" ({m.processor})" * bool(m.processor) for run, m in measured)


def _sections(runs: list[Gathered], rows: list[Row]) -> list[Section]:
    eps, names = rows[0].first[0].eps, titles(rows)
    data, last = rows[0].first[0].dataset, max(e for row in rows for e in row.first[0].eps_values)
    data = f"Data: {data}, {_each(images(row.first[0]) for row in rows)}"
    how = f"seeds: {_seeds(rows)}; hardware: {hardware(rows)}."
    norm = in_its_norm(rows[0].first[0])
    at, over = f"{data}; ε = {eps_text(eps)}{norm}; {how}", f"{data}; ε up to {eps_text(last)}{norm}; {how}"
    means = " Means over seeds." if any(len(row.runs) > 1 for row in rows) else ""
    accuracies = Section("accuracies", f"Accuracies at ε = {eps_text(eps)}")
    accuracies.tables = [
        (grids.accuracies(rows, names, eps), f"Percent. A header sorts the table. {at}"),
        (grids.intervals(rows, names, eps), f"95 % Clopper–Pearson intervals of these accuracies, in percent. {at}"),
    ]
    over_eps = Section("over-eps", "Certified accuracy over ε")
    over_eps.figures = [
        (
            curves.curves(rows, names),
            f"Certified accuracy; at ε = 0 the clean accuracy. Dotted: the ε of the table.{means} {over}",
        ),
        (
            curves.bands(rows, names),
            "Each method: the line is its certified accuracy; the band reaches up to its accuracy under all attacks. "
            f"The true robust accuracy lies in the band. Grey: the certified accuracy of the others.{means} {over}",
        ),
    ]
    clean = Section("front", "Certified and clean accuracy")
    clean.figures = [
        (
            curves.front(rows, names, eps),
            "Dashed: the Pareto front; no method is better in both than those on it. Bars: standard deviation over "
            f"seeds.{means} {at}",
        )
    ]
    if enlarged := curves.front_enlarged(rows, names, eps):
        words = f"The same, enlarged: methods that certify at most {curves.NEAR:g} points less than the best one."
        clean.figures.append((enlarged, f"{words}{means} {at}"))
    return [
        accuracies,
        over_eps,
        clean,
        *_of_samples(runs, rows, names, at, over),
        _costs(rows, names, at),
        _images(runs, rows, names, at),
    ]


def _costs(rows: list[Row], names: list[str], at: str) -> Section:
    found = Section("costs", "Costs")
    found.tables = [(grids.costs(rows, names), f"A header sorts the table. {at}")]
    found.figures = [
        (
            spent.training(rows, names),
            f"Seconds of training for each epoch; in brackets the ratio to IBP in the same run. {at}",
        )
    ]
    if certifying := spent.certifying(rows, names):
        found.figures.append((certifying, f"Seconds of each certificate, divided by samples and ε. {at}"))
    else:
        found.missing = ["Seconds of each certificate: these results are of a version that recorded only their sum."]
    return found


def _of_samples(runs: list[Gathered], rows: list[Row], names: list[str], at: str, over: str) -> list[Section]:
    """Returns what needs the samples files: tests between methods, and radii."""
    eps, by_run = rows[0].first[0].eps, {id(run.results): run for run in runs}
    differ, found = Section("differences", "Which methods differ"), Section("radii", "Certified radii")
    tests = duels(rows, proved(runs, eps))
    if tests:
        differ.about = about_duels(eps)
        differ.tables = [(grids.matrix(names, tests), at)]
    tables, missing = {}, []
    for i, row in enumerate(rows):
        run, name = row.first
        samples = by_run[id(run)].samples(name)
        if samples is None:
            missing.append(why_missing(by_run[id(run)], row.m.samples, names[i], "one row a sample"))
        else:
            tables[i] = samples.frame
    if len(rows) < 2:
        differ.missing = ["A test needs two methods."]
    else:
        differ.missing = missing
    found.missing = missing
    if tables:
        found.figures = [
            (
                radii.radii(rows, names, tables),
                "Line: samples that are certified at this radius or a larger one. Bars: histogram of radii; samples "
                "without a certificate are not in it. Certificates that are tried at some ε only give the largest of "
                f"these. First seed of each method. {over}",
            )
        ]
    return [differ, found]


def why_missing(run: Gathered, file: str | None, title: str, what: str) -> str:
    """Returns a sentence: why a method lacks a file."""
    if file is None:
        return f"{title}: {run.name} names no file with {what}. Versions before this one wrote none."
    return f"{title}: {file} is not in {run.folder}."


def _images(runs: list[Gathered], rows: list[Row], names: list[str], at: str) -> Section:
    found, by_run = Section("images", "Images"), {id(run.results): run for run in runs}
    for row, title in zip(rows, names):
        run, name = row.first
        path, samples = by_run[id(run)].points(name), by_run[id(run)].samples(name)
        if path is None:
            found.missing.append(why_missing(by_run[id(run)], row.m.points, title, "adversarial points"))
        elif shown := gallery(read_points(path), None if samples is None else samples.frame):
            found.albums[title] = shown
        else:
            found.missing.append(f"{title}: its samples are rows of numbers, or there are none.")
    if found.albums:
        found.about = (
            "Test images with their label and certified radius. Where an attack broke one: the adversarial image and "
            f"the difference, in which grey is no change and black and white are ∓ε. First seed of each method. {at}"
        )
    return found


def check_replaceable(path: Path, force: bool) -> None:
    """Raises WouldReplace if a file exists that this command did not write, unless ``force`` is True."""
    if path.is_file() and not force:
        with path.open("rb") as f:
            if f.read(len(WRITTEN_BY.encode())) == WRITTEN_BY.encode():
                return
    check_absent(path, force)

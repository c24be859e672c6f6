"""Reads and checks published figures, the rows of published.toml."""

import math
import tomllib
from dataclasses import dataclass, field, fields
from decimal import Decimal
from fractions import Fraction
from functools import cache
from importlib.resources import files

from ..certificates import norm_named

FAMILIES = ("distance", "interval", "lipschitz", "other")


@dataclass(frozen=True)
class Row:
    """One published result, with the published digits.  ``None``: not published.

    dataset: a name of ``linf_plugin.datasets.SOURCES``.  eps: exact, in the pixel range [0, 1].  norm: the exponent of
    the norm of the balls; the file has its name.  clean, pgd, certified: percent of the test set; pgd is under the
    published attack.  spread: standard deviation of these three
    over ``runs`` seeds.  flops: operations for one image.  net: distance layers × width + hidden units of a head, or
    a name.  seconds: time of an epoch of training, on ``hardware``.  family: one of ``FAMILIES``.  by: the authors of
    the method, if they are not those of the source.  source: key of ``Published.sources``.  table: place in the source.
    """

    dataset: str
    eps: Fraction
    method: str
    family: str
    clean: Decimal
    certified: Decimal
    source: str
    table: str
    pgd: Decimal | None = None
    spread: tuple[Decimal, Decimal, Decimal] | None = None
    runs: int = 1
    flops: str | None = None
    net: str | None = None
    seconds: Decimal | None = None
    hardware: str | None = None
    by: str | None = None
    norm: float = math.inf

    @property
    def accuracies(self) -> list[str | None]:
        """The clean, PGD and certified accuracy as text, with their spread; None where none was published."""
        figures, spread = (self.clean, self.pgd, self.certified), self.spread or (None, None, None)
        return [None if f is None else str(f) if s is None else f"{f} ± {s}" for f, s in zip(figures, spread)]


@dataclass(frozen=True)
class Published:
    """All published figures.

    datasets: name → title and headline ε in ℓ∞, in the order of the page.  in_l2: name → headline ε in ℓ2, of those
    data sets that have one.  sources: key → title; arxiv, or a name and a url; and maybe repository and note.  copies:
    name of data that are nearly published ones → the name of those, and the difference in words.
    """

    datasets: dict[str, tuple[str, Fraction]]
    sources: dict[str, dict[str, str]]
    rows: tuple[Row, ...]
    copies: dict[str, tuple[str, str]] = field(default_factory=dict)
    in_l2: dict[str, Fraction] = field(default_factory=dict)

    def of(self, dataset: str) -> str:
        """Returns the data set beside whose published rows results of this data set stand: mostly itself."""
        return self.copies[dataset][0] if dataset in self.copies else dataset

    def at(self, dataset: str, eps: float, norm: float = math.inf) -> list[Row]:
        """Returns the rows of one data set, ε and norm.  A row's ε is rounded to a float before it is compared."""
        return [row for row in self.rows if (row.dataset, float(row.eps), row.norm) == (dataset, eps, norm)]

    def headlines(self) -> list[tuple[str, float, float]]:
        """Returns (data set, its headline ε, the norm), those in ℓ∞ first."""
        in_linf = [(name, float(eps), math.inf) for name, (_, eps) in self.datasets.items()]
        return in_linf + [(name, float(eps), 2.0) for name, eps in self.in_l2.items()]

    def shown_at(self, dataset: str, norm: float, eps: float, eps_values) -> list[float]:
        """Returns the radii at which results beside these rows are shown: the headline of the recipe, first.

        In another norm than ℓ∞ there are also those measured radii at which there are published rows: papers certify
        one 1-Lipschitz net at several radii.  In ℓ∞ nets are trained for one radius.
        """
        others = [e for e in eps_values if e != eps and norm != math.inf and self.at(dataset, e, norm)]
        return [eps, *dict.fromkeys(others)]

    def name_of(self, source: str) -> str:
        """Returns the arXiv number of a source, or its name."""
        return self.sources[source].get("arxiv") or self.sources[source]["name"]

    def link(self, source: str) -> str:
        """Returns a link to a source in Markdown."""
        about = self.sources[source]
        url = f"https://arxiv.org/abs/{about['arxiv']}" if "arxiv" in about else about["url"]
        return f"[{self.name_of(source)}]({url})"


def _row(table: dict, where: str) -> Row:
    unknown = sorted(set(table) - {f.name for f in fields(Row)})
    if unknown:
        known = ", ".join(f.name for f in fields(Row))
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known: {known}")
    try:
        norm = norm_named(table.get("norm", "linf"))
        given = {"eps": Fraction(table["eps"]), "spread": tuple(table.get("spread", ())) or None, "norm": norm}
        row = Row(**table | given)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{where}: {error}") from error
    if row.family not in FAMILIES:
        raise ValueError(f"{where}: family must be one of {', '.join(FAMILIES)}, got {row.family!r}")
    figures = [f for f in (row.certified, row.pgd, row.clean, row.seconds, *(row.spread or ())) if f is not None]
    if any(type(f) not in (int, Decimal) or not Decimal(f).is_finite() for f in figures):
        raise ValueError(f"{where}: certified, pgd, clean, spread and seconds must be numbers")
    if not 0 <= row.certified <= (row.clean if row.pgd is None else row.pgd) <= row.clean <= 100:
        raise ValueError(f"{where}: needs 0 ≤ certified ≤ pgd ≤ clean ≤ 100")
    return row


def parse(text: str) -> Published:
    """Returns the content of published.toml.

    Raises:
        ValueError: the text is not TOML, a key is unknown or missing, a name is not listed, or figures contradict
            each other.
    """
    content = tomllib.loads(text, parse_float=Decimal)
    missing = [name for name in ("datasets", "sources", "methods", "settings") if name not in content]
    if missing:
        raise ValueError(f"published.toml: {missing[0]} is missing")
    datasets, sources, methods = content["datasets"], content["sources"], content["methods"]
    rows = []
    for setting in content["settings"]:
        shared = {key: value for key, value in setting.items() if key != "rows"}
        for own in setting["rows"]:
            table = shared | own  # values that rows share may stand above them
            where = f"published.toml: {table.get('dataset')}, ε = {table.get('eps')}, {table.get('method')}"
            for name, known in (("dataset", datasets), ("source", sources), ("method", methods)):
                if table.get(name) not in known:
                    raise ValueError(f"{where}: {name} must be one of {', '.join(known)}, got {table.get(name)!r}")
            rows.append(_row(methods[table["method"]] | table, where))
    for key, source in sources.items():
        if "title" not in source or not ("arxiv" in source or {"name", "url"} <= source.keys()):
            raise ValueError(f"published.toml: sources, {key}: needs a title, and arxiv, or a name and a url")
    about = {name: (entry["title"], Fraction(entry["headline"])) for name, entry in datasets.items()}
    in_l2 = {name: Fraction(entry["l2"]) for name, entry in datasets.items() if "l2" in entry}
    copies = {}
    for name, entry in content.get("copies", {}).items():
        if entry.get("of") not in datasets or set(entry) != {"of", "note"}:
            raise ValueError(f"published.toml: copies, {name}: needs a note, and of, one of {', '.join(datasets)}")
        copies[name] = entry["of"], entry["note"]
    return Published(about, sources, tuple(rows), copies, in_l2)


@cache
def load() -> Published:
    """Returns the figures that come with the package."""
    return parse((files("comparisons.report") / "published.toml").read_text(encoding="utf-8"))

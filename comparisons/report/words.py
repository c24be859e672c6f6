"""How figures, samples and names are written for readers."""

import math
import statistics
from collections.abc import Callable, Iterable
from decimal import ROUND_DOWN, Context
from typing import Any

from ..attacks.attack import label_of as attack_label
from ..certificates import in_norm, symbol_of_norm
from ..results.file import eps_key
from ..results.schema import MethodResult, Results

NONE = "–"
ALL = "all attacks"
BOTH = (math.inf, 2.0)  # the norms whose radii stand beside each other
DIGITS = 4  # of a radius that is converted from another norm


def percent(fraction: float | None) -> str:
    """Returns a fraction of the images in percent, or a dash for None."""
    return NONE if fraction is None else f"{100 * fraction:.2f}"


def mean(fractions: list[float]) -> str:
    """Returns the mean in percent, with the sample standard deviation if there are several fractions."""
    spread = f" ± {100 * statistics.stdev(fractions):.2f}" if len(fractions) > 1 else ""
    return percent(statistics.fmean(fractions)) + spread


def interval_text(ends: tuple[float, float]) -> str:
    """Returns an interval of fractions in percent."""
    return " – ".join(f"{100 * end:.2f}" for end in ends)


def eps_text(eps: float) -> str:
    """Returns ε for a reader: its decimal, or k/255 if that is shorter and ε is the float nearest to it."""
    k = round(255 * eps)
    return min(eps_key(eps), f"{k}/255", key=len) if k / 255 == eps else eps_key(eps)


def count(n: int | None) -> str:
    if n is None:
        return NONE
    return f"{n / 1e6:.2f}M" if n >= 1e6 else f"{n / 1e3:.1f}k"


def known(figure: float | None, form: str = "") -> str:
    """Returns a figure in a format, or a dash for None."""
    return NONE if figure is None else format(figure, form)


def recipe_of(results: Results) -> str:
    """Returns the recipe of a run, with the settings that differ from its file.  The text fits a Markdown table."""
    changed = ", ".join(f"`{line.replace('|', '/')}`" for line in results.changed)
    return f"recipe `{results.recipe}`" + f" with {changed}" * bool(changed)


def images(results: Results) -> str:
    """Returns which images or other samples the accuracies count, and how many."""
    part = "held-out training " if results.held_out else "" if results.train_samples == 0 else "test "
    return f"{results.test_samples} {part}{results.thing}s"


def unit(results: Results) -> str:
    """Returns the unit of ε: the range of a pixel, or of any number that a sample holds."""
    return "pixel range [0, 1]" if results.thing == "image" else "range [0, 1] of the inputs"


def in_its_norm(run: Results) -> str:
    """Returns " in ℓ2" for a run in another norm than ℓ∞, and nothing for ℓ∞, which is the usual one."""
    return "" if run.norm == math.inf else f" in {symbol_of_norm(run.norm)}"


def by_norm(runs: Iterable[Results]) -> list[list[Results]]:
    """Returns the runs of each norm, those in ℓ∞ first.  Accuracies in balls of two norms share no table."""
    found: dict[float, list[Results]] = {}
    for run in runs:
        found.setdefault(run.norm, []).append(run)
    return [found[norm] for norm in sorted(found, reverse=True)]


def any_other_norm(runs: Iterable[Results]) -> bool:
    """Returns whether a run is not in ℓ∞, so that tables need the radii in both norms."""
    return any(run.norm != math.inf for run in runs)


def radii(run: Results, eps: float) -> dict[str, float | None]:
    """Returns the radii of an ε of a run in ℓ∞ and in ℓ2, by the headers of their columns; None if one is not known."""
    size = None if run.shape is None else math.prod(run.shape)
    return {f"{symbol_of_norm(norm)} radius": in_norm(eps, run.norm, norm, size) for norm in BOTH}


def radii_text(run: Results, eps: float) -> dict[str, str]:
    """Returns the same as texts.  A radius that is converted is rounded down."""
    return {header: radius_text(radius, eps) for header, radius in radii(run, eps).items()}


def radius_text(radius: float | None, eps: float) -> str:
    """Returns the text of a radius that belongs to an ε of the run."""
    if radius is None or radius == eps:
        return NONE if radius is None else eps_text(radius)
    return f"{Context(DIGITS, ROUND_DOWN).create_decimal(radius):f}"


ABOUT_RADII = (
    "Radii: the balls in ℓ∞ and in ℓ2 in which the same predictions are certified. An ℓ2 ball of radius r holds the ℓ∞ "
    "ball of radius r/√d, where d is how many numbers a sample has; an ℓ∞ ball holds the ℓ2 ball of the same radius. "
    "Converted radii are small beside what methods for the other norm reach, so the two norms have no common ranking."
)


def attack_columns(some: Iterable[Results | MethodResult]) -> dict[str, str]:
    """Returns the attacks that a table shows: name → label.

    Of several it shows the first, which is the same in many papers, and ``ALL`` together.  An attack of a recipe only
    tries what those before it left.
    """
    names = dict.fromkeys(
        name for each in some for name in (each.attacks if isinstance(each, Results) else each.attacked)
    )
    if len(names) < 2:
        return {name: attack_label(name) for name in names}
    first = next(iter(names))
    return {first: attack_label(first), ALL: ALL}


def attacked_accuracy(m: MethodResult, attack: str, eps: float) -> float | None:
    """Returns the accuracy under an attack or under ``ALL`` that were run; None if it was not run."""
    if attack == ALL:
        return min((accuracy[eps] for accuracy in m.attacked.values()), default=None)
    return m.attacked[attack][eps] if attack in m.attacked else None


def attacks_of(results: Results) -> str:
    return " or ".join(map(attack_label, results.attacks))


def markdown_rows(header: list[str], rows: list[list[str]], text: tuple[str, ...] = ()) -> str:
    """Returns a Markdown table.  The first column and those named in ``text`` are aligned to the left."""
    lines = [header, ["---" if i == 0 or name in text else "---:" for i, name in enumerate(header)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def differences(items: Iterable[tuple[str, Any]], facts: dict[str, Callable[[Any], str | set[str]]]) -> dict[str, str]:
    """Returns the facts in which items differ, each with its values and the names of the items that have them.

    items: (name, item).  facts: name → item → its value, or a set of values.
    """
    pairs, found = list(items), {}
    for fact, of in facts.items():
        have: dict[str, list[str]] = {}
        for name, item in pairs:
            values = of(item)
            for value in {values} if isinstance(values, str) else values:
                have.setdefault(value, []).append(name)
        if len(have) > 1:
            found[fact] = "; ".join(f"{value} in {', '.join(names)}" for value, names in have.items())
    return found


def check_same(what: str, found: dict[str, str]) -> None:
    """Raises ValueError with what ``differences`` found.  what: the items, such as "results"."""
    if found:
        lines = [f"{fact}: {values}" for fact, values in found.items()]
        raise ValueError(f"these {what} cannot be compared. They differ in " + ". They differ in ".join(lines))

"""How figures, samples and names are written for readers."""

import statistics
from collections.abc import Callable, Iterable
from typing import Any

from ..attacks.attack import label_of as attack_label
from ..results.file import eps_key
from ..results.schema import MethodResult, Results

NONE = "–"
ALL = "all attacks"


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

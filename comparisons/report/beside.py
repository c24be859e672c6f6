"""Puts runs of different recipes, and nets that no recipe trained, beside each other: those that share their data."""

from collections.abc import Iterable

from ..certificates import symbol_of_norm
from ..results.schema import NO_RECIPE, MethodResult, Results
from .seeds import attacked, groups
from .words import (
    NONE,
    any_other_norm,
    attack_columns,
    count,
    eps_text,
    images,
    markdown_rows,
    mean,
    radii_text,
    recipe_of,
)

Group = list[tuple[Results, str]]  # (run, name of a method) for each seed


def beside(runs: list[Results]) -> str:
    """Returns Markdown: a table for each data set on which several recipes, or given nets, were measured.

    Data are the same if their test parts have the same digest: nobody measured on the rest.  A table is at the headline
    ε of the first of its runs, and has the methods that were measured at this ε.  The text is empty if no two of them
    share their data.  Each norm has a table of its own.
    """
    both = any_other_norm(runs)
    found: dict[tuple, list[Group]] = {}
    for group in groups(runs):
        run, name = next(iter(group.values()))
        key = run.norm, run.held_out, _measured_on(run, run.methods[name])
        found.setdefault(key, []).append(list(group.values()))
    return "\n\n".join(filter(None, (_table(some, both) for some in found.values())))


def _measured_on(run: Results, m: MethodResult) -> tuple:
    """What identifies the data of the figures.  Without a test part of their own, that is the name and both digests."""
    if m.digests is None or run.held_out:
        return run.dataset, m.digests
    return m.digests[1:]


def _sources(some: list[Group]) -> set:
    """The recipes, and the runs of nets without one."""
    return {(run.recipe, run.changed) if run.recipe != NO_RECIPE else id(run) for (run, _), *_ in some}


def _table(some: list[Group], both: bool) -> str:
    first = some[0][0][0]
    eps = first.eps
    some = [group for group in some if eps in (*group[0][0].eps_values, group[0][0].eps)]
    if len(_sources(some)) < 2:
        return ""
    attacks = attack_columns(group[0][0] for group in some)
    columns = [f"{label} %" for label in attacks.values()]
    header = [
        "method",
        "from",
        "of",
        "clean %",
        *columns,
        "certified %",
        *(radii_text(first, eps) if both else ()),
        "parameters",
    ]
    norm = f" in {symbol_of_norm(first.norm)}"
    title = f"## {first.dataset}, ε = {eps_text(eps)}{norm}: side by side"
    return f"{title}\n\n{markdown_rows(header, [_row(group, attacks, eps, both) for group in some], ('from', 'of'))}\n"


def _row(group: Group, attacks: Iterable[str], eps: float, both: bool) -> list[str]:
    run, measured = group[0][0], [run.methods[name] for run, name in group]
    seeds = f", seeds {', '.join(str(run.seed) for run, _ in group)}" if len(group) > 1 else ""
    return [
        measured[0].label,
        (recipe_of(run) if run.recipe != NO_RECIPE else "given net") + seeds,
        images(run),
        mean([m.clean for m in measured]),
        *(attacked(measured, attack, eps) for attack in attacks),
        mean([m.proved(eps) for m in measured]),
        *(radii_text(run, eps).values() if both else ()),
        count(measured[0].parameters) if measured[0].parameters is not None else NONE,
    ]

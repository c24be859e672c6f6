"""Averages runs that differ only in the seed."""

import statistics
from collections.abc import Iterable

from ..results.schema import NO_RECIPE, MethodResult, Results, same_settings, with_changes
from .words import (
    NONE,
    any_other_norm,
    attack_columns,
    attacked_accuracy,
    by_norm,
    eps_text,
    images,
    in_its_norm,
    known,
    markdown_rows,
    mean,
    radii_text,
)


def groups(runs: list[Results]) -> list[dict[int, tuple[Results, str]]]:
    """Groups the methods of runs that differ only in the seed.  A group is seed → (run, name of the method)."""
    entries = [(run, name) for run in runs for name in run.methods]
    found: dict[tuple, dict] = {}
    for key, (run, name) in zip(same_settings([run.methods[name] for run, name in entries]), entries):
        found.setdefault(key, {})[run.methods[name].identity.seed] = run, name
    return list(found.values())


def over_seeds(runs: list[Results]) -> str:
    """Returns Markdown: means and standard deviations of runs that differ only in the seed, one row per method.

    Each norm has a table of its own.  The text is empty if no method was run with two seeds.
    """
    both = any_other_norm(runs)
    return "\n".join(filter(None, (_over_seeds(some, both) for some in by_norm(runs))))


def _over_seeds(runs: list[Results], both: bool) -> str:
    found = groups(runs)
    if all(len(group) < 2 for group in found):
        return ""
    attacks = attack_columns(runs)
    rows = []
    for group in found:
        run, name = next(iter(group.values()))
        measured = [run.methods[name] for run, name in group.values()]
        rows.append(
            [
                f"{with_changes(run.recipe, run.changed)}: " * (run.recipe != NO_RECIPE) + run.methods[name].label,
                eps_text(run.eps),
                ", ".join(map(str, group)),
                images(run),
                mean([m.clean for m in measured]),
                *(attacked(measured, attack, run.eps) for attack in attacks),
                mean([m.proved(run.eps) for m in measured]),
                *(radii_text(run, run.eps).values() if both else ()),
                known(_mean_or_none([m.training.seconds_per_epoch for m in measured]), ".2f"),
            ]
        )
    columns = [f"{label} %" for label in attacks.values()]
    header = ["recipe: method", "ε", "seeds", "of", "clean %", *columns, "certified %"]
    header += [*(radii_text(runs[0], runs[0].eps) if both else ()), "s/epoch"]
    return f"## Over seeds{in_its_norm(runs[0])}: mean ± standard deviation\n\n" + markdown_rows(header, rows) + "\n"


def _mean_or_none(figures: list[float | None]) -> float | None:
    return None if None in figures else statistics.fmean(figures)


def attacked(measured: Iterable[MethodResult], attack: str, eps: float) -> str:
    """Returns the mean accuracy under an attack, or under ``ALL``, or a dash if it was not run."""
    found = [attacked_accuracy(m, attack, eps) for m in measured]
    found = [accuracy for accuracy in found if accuracy is not None]
    return mean(found) if found else NONE

"""Shows the fronts of several searches side by side.  Reads only their files search.json."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from statistics import mean

from ..methods.kinds import METHODS
from ..results.trials import Found, Trial
from .plots import light_axes, pyplot, save
from .words import check_same, differences, eps_text, markdown_rows, percent

ENLARGED = 10.0  # points of certified accuracy that the right panel shows


def check_alike(found: Sequence[Found]) -> None:
    """Raises ValueError if searches were not measured alike; the message lists which search has what."""
    facts = {
        "recipe": lambda f: f.recipe,
        "ε": lambda f: eps_text(f.eps),
        "held-out part": lambda f: f"{f.held_out:g}",
        "seed": lambda f: str(f.seed),  # it chooses the held-out images
    }
    check_same("searches", differences([(f"the search of {each.method}", each) for each in found], facts))
    names = [each.method for each in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two searches are of {', '.join(twice)}")
    if empty := [each.method for each in found if not each.trials]:
        raise ValueError(f"no trial of {', '.join(empty)} ended")


def table_of(found: Sequence[Found]) -> str:
    """Returns Markdown: a row a search, the best certified accuracy first."""
    rows = []
    for each in sorted(found, key=lambda f: -_front(f)[-1].certified):
        front = _front(each)
        seconds = f"{mean(trial.seconds for trial in each.trials):.0f}"
        rows.append([each.label, str(len(each.trials)), _pair(front[-1]), _pair(front[0]), seconds])
    first = found[0]
    head = ["method", "trials", "most certified: certified, clean", "most clean: certified, clean", "seconds a trial"]
    return (
        f"## {first.recipe}: the fronts of {len(found)} searches\n\n"
        f"Recipe `{first.recipe}`, ε = {eps_text(first.eps)}, seed {first.seed}. Accuracies are percent of held-out "
        f"images: {100 * first.held_out:g} % of the training set. No trial saw the test set. The best of many trials "
        "looks better on the images that chose it than on new ones.\n\n" + markdown_rows(head, rows, ("method",)) + "\n"
    )


def _front(found: Found) -> list[Trial]:
    """Returns the trials of the front, from the most clean to the most certified."""
    return sorted((t for t in found.trials if t.number in found.front), key=lambda t: (t.certified, t.number))


def _pair(trial: Trial) -> str:
    return f"{percent(trial.certified)}, {percent(trial.clean)}"


def draw(found: Sequence[Found], path: str | Path) -> None:
    """Draws certified over clean accuracy: the line of each front, and the other trials as small points.

    The right panel enlarges the part where the most certified accuracies are.
    """
    plt = pyplot()
    figure, (whole, part) = plt.subplots(1, 2, figsize=(12.4, 4.8), layout="constrained")
    for axis in (whole, part):
        for each, (color, marker) in zip(found, _styles(found)):
            front = _front(each)
            rest = [trial for trial in each.trials if trial not in front]
            axis.plot(*_points(rest), ".", color=color, ms=4, alpha=0.5)
            (line,) = axis.plot(*_points(front), "-", color=color, marker=marker, ms=7, lw=1)
            if axis is whole:
                line.set_label(each.label)
        axis.set(xlabel="clean accuracy (%)", ylabel=f"certified accuracy at ε = {eps_text(found[0].eps)} (%)")
        light_axes(axis)
    whole.set_title(f"{found[0].recipe}: fronts of {len(found)} searches, held-out images", loc="left", fontsize=10)
    part.set_title("the same, enlarged", loc="left", fontsize=10)
    clean, certified = _points([trial for each in found for trial in _front(each)])
    lowest = max(certified) - ENLARGED
    near = [x for x, y in zip(clean, certified) if y >= lowest]
    part.set(xlim=(min(near) - 0.5, max(near) + 0.5), ylim=(lowest, max(certified) + 0.5))
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    save(figure, path, 120)
    plt.close(figure)


def _styles(found: Sequence[Found]) -> list[tuple]:
    """Returns (colour, mark) of each search: those of its kind if its method has the name of one, else spare ones."""
    names = {each.method for each in found}
    spare = cycle([(kind.color, kind.marker) for name, kind in METHODS.items() if name not in names] or [("0", "o")])
    kinds = [METHODS.get(each.method) for each in found]
    return [next(spare) if kind is None else (kind.color, kind.marker) for kind in kinds]


def _points(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    """Returns clean and certified accuracies, in percent."""
    return [100 * trial.clean for trial in trials], [100 * trial.certified for trial in trials]

"""Draws what a search found: clean over certified accuracy of its trials, and their front."""

from pathlib import Path

from ..results.trials import Found
from .plots import _plain, pyplot, save
from .words import eps_text, markdown_rows, percent


def table_of(found: Found) -> str:
    """Returns Markdown: the trials of the front, with their settings."""
    of = {trial.number: trial for trial in found.trials}
    names = list(found.trials[0].settings) if found.trials else []
    rows = [
        [
            str(number),
            percent(of[number].clean),
            percent(of[number].certified),
            f"{of[number].seconds:.0f}",
            *(f"{of[number].settings[name]:.4g}" for name in names),
        ]
        for number in sorted(found.front, key=lambda number: -of[number].certified)
    ]
    failed = f" {found.refused} trials failed." if found.refused else ""
    return (
        f"## {found.label}: front of {len(found.trials)} trials\n\n"
        f"Recipe `{found.recipe}`, ε = {eps_text(found.eps)}, seed {found.seed}. Percent of the held-out part of the "
        f"training set ({found.held_out:g} of it); no trial saw the test set.{failed}\n\n"
        + markdown_rows(["trial", "clean", "certified", "seconds", *names], rows)
        + "\n"
    )


def draw(found: Found, path: str | Path) -> None:
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    front = sorted((t for t in found.trials if t.number in found.front), key=lambda t: t.clean)
    others = [t for t in found.trials if t.number not in found.front]
    axis.plot(
        [100 * t.clean for t in others], [100 * t.certified for t in others], "o", color="0.6", ms=5, label="trial"
    )
    clean, certified = [100 * t.clean for t in front], [100 * t.certified for t in front]
    axis.plot(clean, certified, "D-", color="#0072b2", ms=6, label="front")
    for t in front:
        axis.annotate(str(t.number), (100 * t.clean, 100 * t.certified), (4, 4), textcoords="offset points", fontsize=8)
    first = next((t for t in found.trials if t.number == 0), None)
    if first is not None:
        axis.plot(100 * first.clean, 100 * first.certified, "*", color="#d55e00", ms=13, label="settings of the recipe")
    axis.set(xlabel="clean accuracy (%)", ylabel=f"certified accuracy at ε = {eps_text(found.eps)} (%)")
    axis.set_title(
        f"{found.recipe}: {found.label}, {len(found.trials)} trials, held-out images", loc="left", fontsize=10
    )
    axis.legend(frameon=False, fontsize=9)
    _plain(axis)
    save(figure, path, 120)
    plt.close(figure)

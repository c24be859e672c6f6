"""Shows what a search found: clean and certified accuracy of its trials, and their front.  Reads only search.json."""

from pathlib import Path

from ..results.trials import Found, Trial
from .plots import light_axes, pyplot, save
from .words import eps_text, markdown_rows, percent

TRIAL, FRONT, FIRST = "0.6", "#0072b2", "#d55e00"  # colours


def table_of(found: Found) -> str:
    """Returns Markdown: the trials of the front with their settings, the best certified accuracy first."""
    front = sorted(_front(found), key=lambda trial: (-trial.certified, trial.number))
    paths = list(front[0].settings) if front else []
    rows = [
        [
            str(trial.number),
            percent(trial.clean),
            percent(trial.certified),
            f"{trial.seconds:.0f}",
            *(f"{trial.settings[path]:.4g}" for path in paths),
        ]
        for trial in front
    ]
    count = f"{len(found.trials)} trial{'s' * (len(found.trials) != 1)}"
    more = f" {found.failed} more failed." if found.failed else ""
    return (
        f"## {found.label}: the front of {count}\n\n"
        f"Recipe `{found.recipe}`, ε = {eps_text(found.eps)}, seed {found.seed}. Accuracies are percent of held-out "
        f"images: {100 * found.held_out:g} % of the training set. No trial saw the test set. Trial 0 has the settings "
        f"of the recipe.{more}\n\n" + markdown_rows(["trial", "clean", "certified", "seconds", *paths], rows) + "\n"
    )


def _front(found: Found) -> list[Trial]:
    return [trial for trial in found.trials if trial.number in found.front]


def draw(found: Found, path: str | Path) -> None:
    """Draws certified over clean accuracy: all trials, the line of the front, and the settings of the recipe."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    front = sorted(_front(found), key=lambda trial: trial.clean)
    axis.plot(*_points([trial for trial in found.trials if trial not in front]), "o", color=TRIAL, ms=5, label="trial")
    axis.plot(*_points(front), "D-", color=FRONT, ms=6, label="front")
    axis.plot(
        *_points([trial for trial in found.trials if trial.number == 0]),
        "*",
        color=FIRST,
        ms=13,
        label="settings of the recipe",
    )
    for trial, clean, certified in zip(front, *_points(front)):
        axis.annotate(str(trial.number), (clean, certified), (4, 4), textcoords="offset points", fontsize=8)
    axis.set(xlabel="clean accuracy (%)", ylabel=f"certified accuracy at ε = {eps_text(found.eps)} (%)")
    title = f"{found.recipe}: {found.label}, {len(found.trials)} trials, held-out images"
    axis.set_title(title, loc="left", fontsize=10, parse_math=False)
    axis.legend(frameon=False, fontsize=9)
    light_axes(axis)
    save(figure, path, 120)
    plt.close(figure)


def _points(trials: list[Trial]) -> tuple[list[float], list[float]]:
    """Returns clean and certified accuracies, in percent."""
    return [100 * trial.clean for trial in trials], [100 * trial.certified for trial in trials]

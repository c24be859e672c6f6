"""Draws certified accuracy over ε, and our accuracies beside published ones.  Reads only results."""

from pathlib import Path

from linf_plugin.files import replacing

from ..results.schema import Results
from .looks import looks
from .words import attacks_of, images, unit

FAMILY_MARKS = {"distance": ("published ℓ∞-distance", "o"), "interval": ("published IBP, CROWN-IBP", "s")}


def pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save(figure, path: str | Path, dpi: int) -> None:
    """Writes a picture: whole or not at all."""
    with replacing(path) as f:
        figure.savefig(f, format=Path(path).suffix.removeprefix(".") or "png", dpi=dpi)


def certified_against_eps(runs: list[Results], path: str | Path) -> None:
    """Draws one panel for each run: certified accuracy (solid) and accuracy under attack (dashed) over ε.

    At ε = 0 both are the clean accuracy.
    """
    plt = pyplot()
    figure, axes = plt.subplots(1, len(runs), figsize=(6.4 * len(runs), 4.4), squeeze=False, layout="constrained")
    for axis, run in zip(axes[0], runs):
        values = [0.0, *(e for e in run.eps_values if e > 0)]
        look = looks((name, m.kind) for name, m in run.methods.items())
        for name, m in run.methods.items():
            color, marker = look[name]["color"], look[name]["marker"]
            certified = [m.clean, *(m.proved(eps) for eps in values[1:])]
            axis.plot(values, [100 * a for a in certified], f"{marker}-", color=color, label=m.label)
            for accuracy in m.attacked.values():
                attacked = [m.clean, *(accuracy[eps] for eps in values[1:])]
                axis.plot(values, [100 * a for a in attacked], "--", color=color, linewidth=1, alpha=0.7)
        axis.axvline(run.eps, color="0.6", linewidth=1, linestyle=":")
        axis.set(
            xlabel=f"ε ({unit(run)})",
            ylabel="accuracy (%)",
            ylim=(0, 101),
            xlim=(0, None),
            title=f"{run.dataset}, {images(run)}, seed {run.seed}",
        )
        axis.grid(alpha=0.3)
        axis.plot([], [], "-", color="0.3", label="certified")
        if run.attacks:
            axis.plot([], [], "--", color="0.3", linewidth=1, label=f"under {attacks_of(run)} attack")
        axis.legend(frameon=False, fontsize=9)
    save(figure, path, 130)
    plt.close(figure)


def beside_published(panels: list[dict], path: str | Path) -> None:
    """Draws a row for each of ``page.panels``: certified against clean accuracy, and against minutes of training.

    Published rows are hollow marks on the left.  On the right each is a horizontal line, because its time is not known.
    Our rows are filled marks, with standard deviations over seeds.  Triangles were trained without a GPU.
    """
    plt = pyplot()
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axes = plt.subplots(
        len(panels), 2, figsize=(9.6, 0.7 + 3.2 * len(panels)), sharey="row", squeeze=False, layout="constrained"
    )
    keys = {}  # label → how it is drawn
    look = looks((ours["label"], ours["kind"]) for panel in panels for ours in panel["ours"])
    for (left, right), panel in zip(axes, panels):
        for row in panel["published"]:
            label, marker = FAMILY_MARKS[row["family"]]
            keys[label] = {"marker": marker, "color": "0.35", "mfc": "white"}
            left.plot(row["clean"], row["certified"], ls="", **keys[label])
            right.axhline(row["certified"], color="0.7", linewidth=0.7, ls="-" if marker == "o" else ":")
        for ours in panel["ours"]:
            keys[ours["label"]] = {"marker": "o", "color": look[ours["label"]]["color"]}
            marker = "o" if ours["device"].startswith("cuda") else "^"
            style = keys[ours["label"]] | {"marker": marker, "capsize": 2}
            (clean, across), (certified, up) = ours["clean"], ours["certified"]
            left.errorbar(clean, certified, xerr=across, yerr=up, **style)
            right.errorbar(ours["minutes"], certified, yerr=up, **style)
            right.annotate(ours["recipe"], (ours["minutes"], certified), (5, 4), textcoords="offset points", fontsize=7)
        left.set_title(panel["title"], loc="left", fontsize=10.5)
        left.set(xlabel="clean accuracy (%)", ylabel="certified (%)")
        right.set(xlabel="minutes of training", xscale="log")
        right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        right.xaxis.set_minor_locator(NullLocator())
        right.xaxis.set_major_formatter("{x:g}")
        right.margins(x=0.25)
        for axis in (left, right):
            axis.grid(alpha=0.25, linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
    keys["without a GPU"] = {"marker": "^", "color": "0.35"}
    handles = [plt.Line2D([], [], ls="", label=label, **style) for label, style in keys.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    save(figure, path, 110)
    plt.close(figure)

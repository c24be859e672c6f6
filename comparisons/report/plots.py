"""Draws certified accuracy over ε, and our accuracies beside published ones.  Reads only results."""

import io
import statistics
import textwrap
from collections.abc import Callable
from pathlib import Path

from linf_plugin import extras
from linf_plugin.files import replacing

from ..results.schema import MethodResult, Results
from .labels import at_right, beside_points, settle
from .looks import looks
from .panels import Panel, panels_of
from .words import ALL, attack_columns, attacked_accuracy, eps_text, in_its_norm, unit

FAMILY_MARKS = {
    "distance": ("published ℓ∞-distance", "o"),
    "interval": ("published IBP, CROWN-IBP", "s"),
    "lipschitz": ("published Lipschitz bounds, ℓ2", "D"),
}
PUBLISHED = "#595959"
ACROSS = 2  # panels in a row
LEAST_TICKS = 0.055  # part of an axis between two ticks at measured ε


def pyplot():
    with extras.named():
        import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save(figure, path: str | Path, dpi: int) -> None:
    """Writes a picture: whole or not at all.  A PNG has 256 colours, which makes it a third as large."""
    kind = Path(path).suffix.removeprefix(".") or "png"
    drawn = io.BytesIO()
    figure.savefig(drawn, format=kind, dpi=dpi)
    if kind == "png":
        from PIL import Image

        picture = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        drawn = io.BytesIO()
        picture.save(drawn, format="png", optimize=True, dpi=(dpi, dpi))
    with replacing(path) as f:
        f.write(drawn.getvalue())


def certified_against_eps(runs: list[Results], path: str | Path) -> None:
    """Draws certified accuracy (solid) and accuracy under attack (dashed) over ε.

    At ε = 0 both are the clean accuracy.  Runs that differ only in the seed share a panel.  Their lines are means, and
    a band reaches from the least to the largest certified accuracy.
    """
    plt, panels = pyplot(), panels_of(runs)
    columns = min(ACROSS, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(6.6 * columns, 4.3 * rows + 0.3), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    labelled = [(axis, _certified(axis, panel)) for axis, panel in zip(axes.flat, panels)]
    several = any(len(panel.seeds) > 1 for panel in panels)
    attacks = list(attack_columns(runs).values())[-1:]
    keys = [plt.Line2D([], [], color="0.3", label="certified (mean over seeds)" if several else "certified")]
    keys += [
        plt.Line2D([], [], color="0.3", ls="--", lw=1, label=f"under {label if label == ALL else f'{label} attack'}")
        for label in attacks
    ]
    if several:
        keys.append(plt.Rectangle((0, 0), 1, 1, color="0.3", alpha=0.2, lw=0, label="least to largest over seeds"))
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, fontsize=9)
    settle(figure, labelled)
    save(figure, path, 130)
    plt.close(figure)


def _certified(axis, panel: Panel) -> list:
    """Draws one panel, and returns the labels of its lines."""
    run = panel.run
    values = [0.0, *(eps for eps in run.eps_values if eps > 0)]
    first = {name: next(iter(of_seed.values())) for name, of_seed in panel.lines.items()}
    look, ends, heights = looks((name, m.kind) for name, m in first.items()), [], []
    for name, of_seed in panel.lines.items():
        measured = list(of_seed.values())
        color, marker = look[name]["color"], look[name]["marker"]
        low, mean, high = _curves(measured, values, lambda m, eps: m.proved(eps))
        axis.plot(values, mean, marker=marker, color=color, label=first[name].label, ms=7, mec="w", mew=0.5)
        if len(measured) > 1:
            axis.fill_between(values, low, high, color=color, alpha=0.2, linewidth=0)
        heights += low + high
        if under := [m for m in measured if m.attacked]:
            _, attacked, _ = _curves(under, values, lambda m, eps: attacked_accuracy(m, ALL, eps))
            axis.plot(values, attacked, "--", color=color, linewidth=1, alpha=0.8)
            heights += attacked
        seeds = f" (seed {', '.join(map(str, of_seed))})" if len(of_seed) < len(panel.seeds) else ""
        ends.append((values[-1], mean[-1], first[name].label + seeds, color))
    least, most = min(heights), max(heights)
    room = max(1.0, 0.05 * (most - least))
    last = values[-1] or 1.0
    axis.set(
        xlabel=f"ε{in_its_norm(run)} ({unit(run)})",
        ylabel="accuracy (%)",
        xlim=(-0.02 * last, 1.03 * last),
        ylim=(max(-0.5, least - room), min(100.5, most + room)),
    )
    if min(b - a for a, b in zip(values, [*values[1:], 2 * last])) > LEAST_TICKS * last:
        axis.set_xticks(values, [eps_text(eps) if eps else "0" for eps in values])
    axis.axvline(run.eps, color="0.6", linewidth=1, linestyle=":", zorder=0)
    above = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    axis.annotate("ε of the table", (run.eps, 1), (0, 2), ha="center", fontsize=7.5, color="0.4", **above)
    axis.set_title(
        f"{textwrap.fill(panel.title, 60)}\n{panel.subtitle}", loc="left", fontsize=10, pad=15, parse_math=False
    )
    light_axes(axis)
    return at_right(axis, ends)


def _curves(measured: list[MethodResult], values: list[float], accuracy: Callable) -> tuple[list, list, list]:
    """Returns the least, the mean and the largest accuracy over seeds, in percent, at each ε."""
    at = [[100 * (accuracy(m, eps) if eps else m.clean) for m in measured] for eps in values]
    return [min(a) for a in at], [statistics.fmean(a) for a in at], [max(a) for a in at]


def light_axes(axis) -> None:
    """Draws a light grid, and no frame above and on the right."""
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def beside_published(panels: list[dict], path: str | Path) -> None:
    """Draws a row for each of ``page.panels``: certified against clean accuracy, and against minutes of training.

    Published rows are hollow marks on the left.  On the right each is a horizontal line with its name, because its time
    is not known.  Our rows are filled marks, with standard deviations over seeds, and each has its recipe beside it,
    and the device if there are several.
    """
    plt = pyplot()
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axes = plt.subplots(
        len(panels), 2, figsize=(9.4, 0.9 + 3.4 * len(panels)), sharey="row", squeeze=False, layout="constrained"
    )
    keys = {}  # label → how it is drawn
    look = looks((ours["label"], ours["kind"]) for panel in panels for ours in panel["ours"])
    devices = {_device(ours) for panel in panels for ours in panel["ours"]}
    levels = []
    for (left, right), panel in zip(axes, panels):
        for row in panel["published"]:
            label, marker = FAMILY_MARKS[row["family"]]
            keys[label] = {"marker": marker, "color": PUBLISHED, "mfc": "white"}
            left.plot(row["clean"], row["certified"], ls="", ms=5, **keys[label])
            right.axhline(row["certified"], color="0.75", linewidth=0.7, zorder=0)
            right.plot(1, row["certified"], transform=right.get_yaxis_transform(), ms=4, clip_on=False, **keys[label])
        for ours in panel["ours"]:
            style = keys[ours["label"]] = look[ours["label"]]
            (clean, across), (certified, up) = ours["clean"], ours["certified"]
            left.errorbar(clean, certified, xerr=across, yerr=up, capsize=2, **style)
            right.errorbar(ours["minutes"], certified, yerr=up, capsize=2, **style)
        left.set_title(panel["title"], loc="left", fontsize=10.5)
        left.set(xlabel="clean accuracy (%)", ylabel="certified (%)")
        right.set(xlabel=f"minutes of training ({', '.join(sorted(devices))})", xscale="log")
        right.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        right.xaxis.set_minor_locator(NullLocator())
        right.xaxis.set_major_formatter("{x:g}")
        right.margins(x=0.4, y=0.1)  # room for the names of points
        for axis in (left, right):
            light_axes(axis)
        edge = right.get_xlim()[1]
        ends = [
            (edge, row["certified"], f"{row['certified']:.1f} {row['label']}", PUBLISHED) for row in panel["published"]
        ]
        levels.append((right, at_right(right, ends, size=8)))
    if any(ours["certified"][1] is not None for panel in panels for ours in panel["ours"]):
        keys["± standard deviation over seeds"] = {"marker": "|", "ms": 10, "color": PUBLISHED}
    handles = [plt.Line2D([], [], ls="", label=label, **style) for label, style in keys.items()]
    legend = figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)
    settle(figure, levels)
    for (_, right), panel in zip(axes, panels):
        beside_points(right, [_point(ours, look[ours["label"]]["color"], devices) for ours in panel["ours"]], size=8)
    save(figure, path, 110)
    plt.close(figure)


def _device(ours: dict) -> str:
    return "GPU" if ours["device"].startswith("cuda") else "CPU"


def _point(ours: dict, color: str, devices: set[str]) -> tuple[float, float, str, str]:
    name = ours["recipe"] if len(devices) == 1 else f"{ours['recipe']}, {_device(ours)}"
    return ours["minutes"], ours["certified"][0], name, color

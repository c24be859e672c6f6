"""The pictures: certified accuracy over ε and beside published rows, cost over size; they read results only."""

from pathlib import Path

from linf_plugin.files import replacing

COLORS = {
    "linf-dist": "#d62728",
    "linf-dist-mlp": "#ff7f0e",
    "ibp": "#1f77b4",
    "crown-ibp": "#2ca02c",
    "sortnet": "#9467bd",
    "sortnet-mlp": "#8c564b",
    "linf-dist-v2": "#e377c2",
    "linf-conv-mlp": "#bcbd22",
    "linf-dist-clip": "#17becf",
    "ours": "#d62728",
    "cdist": "#1f77b4",
    "matmul": "0.45",
}
FAMILIES = {"distance": ("published ℓ∞-distance", "o"), "interval": ("published IBP, CROWN-IBP", "s")}
SWEEPS = (("width", "in", "batch", 2), ("batch", "batch", "in", 1))  # what varies: its key; the fixed one; slope


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure, path: str | Path, dpi: int) -> None:
    """Whole or not at all."""
    with replacing(path) as f:
        figure.savefig(f, format=Path(path).suffix.removeprefix(".") or "png", dpi=dpi)


def certified_against_eps(results: list[dict], path: str | Path) -> None:
    """One panel a run: certified accuracy (solid) and accuracy under PGD (dashed) over ε, ε = 0 being clean."""
    from ..running.runner import eps_key
    from .tables import images

    plt = _pyplot()
    figure, axes = plt.subplots(1, len(results), figsize=(6.4 * len(results), 4.4), squeeze=False, layout="constrained")
    for axis, run in zip(axes[0], results):
        values = [0.0, *(e for e in run["eps_values"] if e > 0)]
        for key, m in run["methods"].items():
            keys = [eps_key(e) for e in values[1:]]
            certified = [m["clean"], *(m["certified"]["best"][k] for k in keys)]
            attacked = [m["clean"], *(m["pgd"][k] for k in keys)]
            color = COLORS.get(key)
            axis.plot(values, [100 * a for a in certified], "o-", color=color, label=m["label"])
            axis.plot(values, [100 * a for a in attacked], "--", color=color, linewidth=1, alpha=0.7)
        axis.axvline(run["eps"], color="0.6", linewidth=1, linestyle=":")
        axis.set(
            xlabel="ε (pixel range [0, 1])",
            ylabel="accuracy (%)",
            ylim=(0, 101),
            xlim=(0, None),
            title=f"{run['dataset']}, {images(run)}, seed {run['seed']}",
        )
        axis.grid(alpha=0.3)
        axis.plot([], [], "-", color="0.3", label="certified")
        axis.plot([], [], "--", color="0.3", linewidth=1, label="under PGD attack")
        axis.legend(frameon=False, fontsize=9)
    _save(figure, path, 130)
    plt.close(figure)


def standing(panels: list[dict], path: str | Path) -> None:
    """A row for each of ``standing.panels``: certified against clean accuracy, and against minutes of training.

    Published rows are hollow on the left; on the right, as their times are not known, each is a level.  Ours
    are filled, with standard deviations over seeds; triangles were trained without a GPU.
    """
    plt = _pyplot()
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axes = plt.subplots(
        len(panels), 2, figsize=(9.6, 0.7 + 3.2 * len(panels)), sharey="row", squeeze=False, layout="constrained"
    )
    keys = {}  # label → how it is drawn
    for (left, right), panel in zip(axes, panels):
        for row in panel["published"]:
            label, marker = FAMILIES[row["family"]]
            keys[label] = {"marker": marker, "color": "0.35", "mfc": "white"}
            left.plot(row["clean"], row["certified"], ls="", **keys[label])
            right.axhline(row["certified"], color="0.7", linewidth=0.7, ls="-" if marker == "o" else ":")
        for ours in panel["ours"]:
            keys[ours["label"]] = {"marker": "o", "color": COLORS.get(ours["method"])}
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
    _save(figure, path, 110)
    plt.close(figure)


def cost(results: dict, path: str | Path) -> None:
    """Times of ``bench.run(sweeps=True)``: two panels for each p, over width and over batch, axes logarithmic.

    Forward solid, backward dashed; hollow where a slice of the batch was measured and scaled.
    """
    plt = _pyplot()
    exponents = list(dict.fromkeys(row["p"] for row in results["rows"]))
    peers = [peer for peer in results["titles"] if peer in COLORS]
    figure, axes = plt.subplots(
        len(exponents), 2, figsize=(10, 1 + 3.4 * len(exponents)), sharey="row", squeeze=False, layout="constrained"
    )
    for panels, p in zip(axes, exponents):
        for axis, (kind, size, fixed, slope) in zip(panels, SWEEPS):
            rows = [row for row in results["rows"] if (row["kind"], row["p"]) == (kind, p)]
            sizes = sorted({row["case"][size] for row in rows})
            for peer in peers:
                for direction in ("forward", "backward"):
                    _times(
                        axis,
                        [
                            (row["case"][size], row["times"][peer])
                            for row in rows
                            if row["direction"] == direction and row["times"][peer]["median"]
                        ],
                        direction,
                        COLORS[peer],
                    )
            if sizes:
                _guide(axis, sizes, slope, f"∝ {kind}{'²' * (slope == 2)}")
                about = f"{'width' if fixed == 'in' else fixed} {rows[0]['case'][fixed]}"
                axis.set_title(f"p = {p.replace('inf', '∞')}, {about}", loc="left", fontsize=10.5)
            axis.set_xticks(sizes, [str(n) for n in sizes])
            axis.minorticks_off()
            axis.set_xlabel(kind)
            axis.grid(alpha=0.25, linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("seconds a call")
    keys = [{"label": results["titles"][peer], "color": COLORS[peer], "marker": "o"} for peer in peers]
    keys += [{"label": "forward"}, {"label": "backward", "ls": "--"}]
    keys += [{"label": "scaled from a slice", "ls": "", "marker": "o", "mfc": "white"}]
    keys = [plt.Line2D([], [], **{"color": "0.3", "ms": 4} | key) for key in keys]
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), frameon=False, fontsize=9)
    about = results["machine"]
    figure.supxlabel(
        f"{about['processor']}, {about['kernels']}, {about['threads']} thread{'s' * (about['threads'] != 1)}, "
        f"torch {about['torch']}",
        fontsize=8,
        color="0.4",
    )
    _save(figure, path, 130)
    plt.close(figure)


def _times(axis, times: list[tuple[int, dict]], direction: str, color: str) -> None:
    """Medians of one method, and the quartiles as a band."""
    forward = direction == "forward"
    sizes, medians = [size for size, _ in times], [time["median"] for _, time in times]
    axis.loglog(sizes, medians, "-" if forward else "--", color=color, linewidth=1.8 if forward else 1.1)
    lows, highs = ([time["quartiles"][end] for _, time in times] for end in (0, 1))
    axis.fill_between(sizes, lows, highs, color=color, alpha=0.12, linewidth=0)
    for size, time in times:
        fill = "white" if time["scaled"] else color
        axis.plot(size, time["median"], "o", color=color, mfc=fill, ms=4 if forward else 3)


def _guide(axis, sizes: list[int], slope: int, label: str) -> None:
    """A grey line of this slope below the right half of the panel's lines."""
    sizes = sizes[len(sizes) // 2 :]
    last = (line.get_xydata()[-1] for line in axis.lines if len(line.get_xdata()))
    least = min(seconds / size**slope for size, seconds in last)
    seconds = [least / 4 * size**slope for size in sizes]
    axis.loglog(sizes, seconds, color="0.6", linewidth=1, ls=":")
    axis.annotate(label, (sizes[0], seconds[0]), (14, -3), textcoords="offset points", fontsize=8, color="0.4")

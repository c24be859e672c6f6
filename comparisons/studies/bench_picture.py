"""Draws the picture of the study ``bench``: times over width and over batch.  It reads only the results."""

from pathlib import Path

from ..report.plots import pyplot, save

PEER_COLORS = {"ours": "#d62728", "cdist": "#1f77b4", "matmul": "0.45"}
VARIED = (("width", "in", "batch", 2), ("batch", "batch", "in", 1))  # what varies: its key; the fixed one; slope


def operator_times(results: dict, path: str | Path) -> None:
    """Draws the times of ``bench.run(sweeps=True)``: two panels for each p, over width and over batch.

    Axes are logarithmic.  Forward passes are solid, backward passes dashed.  A mark is hollow if a slice of the batch
    was measured and scaled.
    """
    plt = pyplot()
    exponents = list(dict.fromkeys(row["p"] for row in results["rows"]))
    peers = [peer for peer in results["titles"] if peer in PEER_COLORS]
    figure, axes = plt.subplots(
        len(exponents), 2, figsize=(10, 1 + 3.4 * len(exponents)), sharey="row", squeeze=False, layout="constrained"
    )
    for panels, p in zip(axes, exponents):
        for axis, (kind, size, fixed, slope) in zip(panels, VARIED):
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
                        PEER_COLORS[peer],
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
    keys = [{"label": results["titles"][peer], "color": PEER_COLORS[peer], "marker": "o"} for peer in peers]
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
    save(figure, path, 130)
    plt.close(figure)


def _times(axis, times: list[tuple[int, dict]], direction: str, color: str) -> None:
    """Draws the medians of one peer, and its quartiles as a band."""
    forward = direction == "forward"
    sizes, medians = [size for size, _ in times], [time["median"] for _, time in times]
    axis.loglog(sizes, medians, "-" if forward else "--", color=color, linewidth=1.8 if forward else 1.1)
    lows, highs = ([time["quartiles"][end] for _, time in times] for end in (0, 1))
    axis.fill_between(sizes, lows, highs, color=color, alpha=0.12, linewidth=0)
    for size, time in times:
        fill = "white" if time["scaled"] else color
        axis.plot(size, time["median"], "o", color=color, mfc=fill, ms=4 if forward else 3)


def _guide(axis, sizes: list[int], slope: int, label: str) -> None:
    """Draws a grey line of this slope below the right half of the panel's lines."""
    sizes = sizes[len(sizes) // 2 :]
    last = (line.get_xydata()[-1] for line in axis.lines if len(line.get_xdata()))
    least = min(seconds / size**slope for size, seconds in last)
    seconds = [least / 4 * size**slope for size in sizes]
    axis.loglog(sizes, seconds, color="0.6", linewidth=1, ls=":")
    axis.annotate(label, (sizes[0], seconds[0]), (14, -3), textcoords="offset points", fontsize=8, color="0.4")

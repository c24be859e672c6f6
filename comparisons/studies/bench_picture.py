"""Draws the picture of the study ``bench``: times over width and over batch.  It reads only the results."""

from pathlib import Path

from ..report.labels import at_right, settle
from ..report.plots import pyplot, save

PEER_LOOKS = {  # colour and mark
    "ours": ("#d55e00", "o"),
    "cdist": ("#0072b2", "s"),
    "matmul": ("#595959", "D"),
}
VARIED = (("width", "in", "batch", 2), ("batch", "batch", "in", 1))  # what varies: its key; the fixed one; slope


def operator_times(results: dict, path: str | Path) -> None:
    """Draws the times of ``bench.run(sweeps=True)``: two panels for each p, over width and over batch.

    Axes are logarithmic.  Each peer has its mark, and its name at the end of its forward times.  Forward passes are
    solid, backward passes dashed.  A mark is hollow if a slice of the batch was measured and scaled.
    """
    plt = pyplot()
    exponents = list(dict.fromkeys(row["p"] for row in results["rows"]))
    peers = [peer for peer in results["titles"] if peer in PEER_LOOKS]
    figure, axes = plt.subplots(
        len(exponents), 2, figsize=(10.4, 1 + 3.2 * len(exponents)), sharey="row", squeeze=False, layout="constrained"
    )
    labelled = []
    for panels, p in zip(axes, exponents):
        for axis, (kind, size, fixed, slope) in zip(panels, VARIED):
            rows = [row for row in results["rows"] if (row["kind"], row["p"]) == (kind, p)]
            sizes = sorted({row["case"][size] for row in rows})
            ends = []
            for peer in peers:
                for direction in ("forward", "backward"):
                    times = [
                        (row["case"][size], row["times"][peer])
                        for row in rows
                        if row["direction"] == direction and row["times"][peer]["median"]
                    ]
                    _times(axis, times, direction, *PEER_LOOKS[peer])
                    if direction == "forward" and times:
                        last, time = times[-1]
                        ends.append((last, time["median"], results["titles"][peer], PEER_LOOKS[peer][0]))
            if sizes:
                _guide(axis, sizes, slope, f"∝ {kind}{'²' * (slope == 2)}")
                about = f"{'width' if fixed == 'in' else fixed} {rows[0]['case'][fixed]}"
                axis.set_title(f"p = {p.replace('inf', '∞')}, {about}", loc="left", fontsize=10.5)
            axis.set_xticks(sizes, [str(n) for n in sizes])
            axis.minorticks_off()
            axis.set_xlabel(kind)
            axis.grid(alpha=0.25, linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
            labelled.append((axis, at_right(axis, ends)))
        panels[0].set_ylabel("seconds a call")
    keys = [
        {"label": results["titles"][peer], "color": PEER_LOOKS[peer][0], "marker": PEER_LOOKS[peer][1]}
        for peer in peers
    ]
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
    settle(figure, labelled)
    save(figure, path, 110)
    plt.close(figure)


def _times(axis, times: list[tuple[int, dict]], direction: str, color: str, marker: str) -> None:
    """Draws the medians of one peer, and its quartiles as a band."""
    forward = direction == "forward"
    sizes, medians = [size for size, _ in times], [time["median"] for _, time in times]
    axis.loglog(sizes, medians, "-" if forward else "--", color=color, linewidth=1.8 if forward else 1.1)
    lows, highs = ([time["quartiles"][end] for _, time in times] for end in (0, 1))
    axis.fill_between(sizes, lows, highs, color=color, alpha=0.12, linewidth=0)
    for size, time in times:
        fill = "white" if time["scaled"] else color
        axis.plot(size, time["median"], marker, color=color, mfc=fill, ms=4.5 if forward else 3.5)


def _guide(axis, sizes: list[int], slope: int, label: str) -> None:
    """Draws a grey line of this slope below the right half of the panel's lines."""
    sizes = sizes[len(sizes) // 2 :]
    last = (line.get_xydata()[-1] for line in axis.lines if len(line.get_xdata()))
    least = min(seconds / size**slope for size, seconds in last)
    seconds = [least / 4 * size**slope for size in sizes]
    axis.loglog(sizes, seconds, color="0.6", linewidth=1, ls=":")
    axis.annotate(label, (sizes[0], seconds[0]), (14, -3), textcoords="offset points", fontsize=8, color="0.4")

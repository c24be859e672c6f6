"""Writes the table of the study ``bench``.  It reads only the results, and measures nothing."""

import math
import textwrap

WIDTH = 100  # columns
LEGEND = (
    "Sizes are batch × in × out, all in float32; times are medians. Gel/s: 10⁹ coordinate pairs a second. "
    "×: how many times as long as ours. ÷: ours takes so many times as long as the matrix product. "
    "Ceiling: Gel/s of the same arithmetic on registers alone, and our share of it, above 100 % where terms "
    "too small to be seen are left out. Training: the forward pass where a gradient will be asked for."
)
MARKS = {"~": "~: measured on a slice of the batch and scaled.", "!": "!: not all of the result is finite."}


def _three(value: float) -> str:
    """Returns a number with three digits, or with all digits before the point if they are more."""
    return f"{value:.{max(0, 2 - max(0, math.floor(math.log10(value * 1.0005))))}f}" if value > 0 else "0"


def _duration(seconds: float) -> str:
    unit, factor = next(((u, f) for u, f in (("s", 1), ("ms", 1e3)) if seconds * f >= 0.9995), ("µs", 1e6))
    return f"{_three(seconds * factor)} {unit}"


def _cell(peer: str, time: dict | None, ours: float) -> str:
    """Returns the time of a peer, and its ratio to ours, in 16 columns."""
    if time is None:
        return " " * 16
    if time["median"] is None:
        return f"{'n/a':>10}{'':6}"
    ratio = f"÷{_three(ours / time['median'])}" if peer == "matmul" else f"×{_three(time['median'] / ours)}"
    marks = "~" * time["scaled"] + "!" * (not time["finite"])
    return f"{marks + _duration(time['median']):>10} {ratio:<5}"


def _line(row: dict, peers: list[str]) -> str:
    ours = row["times"]["ours"]["median"]
    rate, ceiling = row["pairs"] / ours, row["ceiling"]
    cells = "".join(_cell(peer, row["times"].get(peer), ours) for peer in peers)
    share = f"{_three(ceiling / 1e9):>6} {rate / ceiling:4.0%}" if ceiling else f"{'–':>6}"
    return f"  {row['direction']:<8}{_duration(ours):>8}{_three(rate / 1e9):>7}{cells}{share}".rstrip()


def table(results: dict) -> str:
    """Returns the results of ``bench.run`` as a table for a terminal of 100 columns."""
    about, titles = results["machine"], results["titles"]
    peers = [peer for peer in titles if peer != "ours"]
    heads = "".join(f"{titles[peer]:>16}" for peer in peers)
    rows = [row for row in results["rows"] if row["kind"] == "table"]
    lines, missing, above = [], {}, {"p": None, "size": None}
    for row in rows:
        if row["p"] != above["p"]:
            p = f"p = {row['p'].replace('inf', '∞')}"
            lines += ["", f"{p:<10}{'ours':>8}{'Gel/s':>7}{heads}{'ceiling':>11}"]
        if (row["p"], row["size"]) != (above["p"], above["size"]):
            lines.append(row["size"])
        lines.append(_line(row, peers))
        above = row
        for peer, time in row["times"].items():
            if time["median"] is None:
                missing[f"n/a: {titles[peer]}, {row['size']}, {row['direction']}: {time['reason']}"] = None
    threads = f"{about['threads']} thread{'s' * (about['threads'] != 1)}"
    head = f"{about['processor']}; kernels: {about['kernels']}; {threads}; torch {about['torch']}"
    marks = [meaning for mark, meaning in MARKS.items() if any(mark in line for line in lines)]
    notes = [*missing, *results["wrong"]]
    return "\n".join([head, *lines, "", *(textwrap.fill(text, WIDTH) for text in (" ".join([LEGEND, *marks]), *notes))])

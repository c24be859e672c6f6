"""Writes the table of the study ``cost``.  It reads only results.json, and measures nothing."""

from ..certificates import in_order, label_of
from ..report.words import markdown_rows

LIRPA_LABELS = {"CROWN-Optimized": "α-CROWN"}


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}"


def _interval_bounds(part: dict) -> list[str]:
    rows = [
        [name, _milliseconds(t["forward"]), _milliseconds(t["ibp"]), f"{t['ibp'] / t['forward']:.2f}"]
        for name, t in part["nets"].items()
    ]
    worst = max(t["ibp"] / t["forward"] for t in part["nets"].values())
    return [
        "## Interval bounds as a multiple of the forward pass",
        f"ℓ∞-dist nets of 784 inputs, batch {part['batch']}, float32; medians of {part['repeats']} in turns, on "
        f"{part['threads']} threads. Asked: at most {part['asked']:g} times the forward pass; reached {worst:.2f}.",
        markdown_rows(["net", "forward ms", "IBP ms", "ratio"], rows),
    ]


def _memory(part: dict) -> list[str]:
    rows = [
        [
            LIRPA_LABELS.get(r["method"], r["method"]),
            f"784-{r['width']}×{r['depth'] - 1}-10",
            str(r["batch"]),
            f"{r['idle'] / 1e6:.0f}",
            f"{r['peak'] / 1e6:.0f}",
            f"{r['seconds']:.2f}",
        ]
        for r in part["rows"]
    ]
    small = min(r["width"] for r in part["rows"])
    asked = "; ".join(
        f"{r['method']} on the smallest net less than {part['asked'][r['method']] / 1e6:.0f} MB, reached "
        f"{r['peak'] / 1e6:.0f} MB"
        for r in part["rows"]
        if r["width"] == small and r["method"] in part["asked"]
    )
    most = max(r["idle"] + r["peak"] for r in part["rows"])
    return [
        "## Memory of bounds",
        "Most memory during compute_bounds beyond the idle process, which holds the net, its BoundedModule and "
        f"PyTorch; each in a fresh process. Asked: {asked}; every net in {part['asked_total'] / 1e9:.0f} GB, reached "
        f"{most / 1e9:.2f} GB with the idle process.",
        markdown_rows(["method", "net", "batch", "idle MB", "peak beyond MB", "seconds"], rows),
    ]


def _cascade(part: dict) -> list[str]:
    t, total = part["training"], part["survives"]
    rows = [
        [
            label_of(m),
            str(each["tried"]),
            str(each["certified"]),
            f"{each['seconds']:.1f}",
            f"{each['seconds'] / each['tried']:.4f}" if each["tried"] else "–",
        ]
        for m, each in [*part["tallies"].items(), *part["costly"].items()]
    ]
    share = part["tallies"]["lipschitz"]["certified"] / total if total else 0
    return [
        f"## The cascade on {part['dataset']}, ε = {part['eps']:g}",
        f"An ℓ∞-dist net, {t['width']} wide and {t['depth']} deep, trained for {t['epochs']} epochs on {t['images']} "
        f"images ({t['seconds']:.0f} s). Of {part['test_images']} test images it classifies {part['correct']} "
        f"correctly, and {total} after PGD ({part['attack']['steps']} steps); of these the Lipschitz bound certifies "
        f"{100 * share:.1f} % (ε was chosen for {100 * part['asked_share']:.0f} %), the cascade {part['certified']}. "
        f"Asked: Lipschitz, interval and CROWN-IBP on all of them in less than {part['asked']:.0f} s; reached "
        f"{part['seconds']:.1f} s on {part['threads']} threads. CROWN and α-CROWN: on some of the {part['undecided']} "
        "that are undecided then.",
        markdown_rows(["method", "tried", "certified", "seconds", "s/sample"], rows),
    ]


def _digits(part: dict) -> list[str]:
    parts = [
        "## What each method certifies on the digits",
        f"Of {part['images']} test images, on nets of width {part['width']} and depth 3 trained for {part['epochs']} "
        "epochs; each method alone, and all together. α-CROWN runs where CROWN proves nothing and PGD finds nothing. "
        "Bold: more than the Lipschitz bound alone.",
    ]
    for name, net in part["nets"].items():
        first, *others = in_order(list(next(iter(net["certified"].values()))))
        rows = [
            [eps, str(found[first]), *(f"**{found[m]}**" if found[m] > found[first] else str(found[m]) for m in others)]
            for eps, found in net["certified"].items()
        ]
        header = ["ε", *(label_of(m) for m in (first, *others))]
        parts += [f"{name}, {net['clean']} classified correctly:", markdown_rows(header, rows)]
    return parts


def table(results: dict) -> str:
    """Returns Markdown for the parts that were measured, in their order."""
    reports = {"a": _interval_bounds, "b": _memory, "c": _cascade, "d": _digits}
    found = [text for part, report in reports.items() if part in results for text in report(results[part])]
    return "\n\n".join(found) + "\n"

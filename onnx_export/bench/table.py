"""The table of the results in Markdown, and what gave wrong numbers.  Nothing is measured here."""

from .ways import WAYS


def wrong(results: dict) -> list[str]:
    """Everything that did not give the right numbers, in words; empty where nothing did."""
    found = [
        f"{WAYS[way]}, threads: {threads}, p = {row['case']['p']}, {row['size']}: {times['wrong']}; not timed"
        for row in results["dist"]
        for threads, ways in row["threads"].items()
        for way, times in ways.items()
        if "wrong" in times
    ]
    return found + ([] if results["export"]["bit_equal"] else ["the exported net's logits are not PyTorch's"])


def _number(a: float) -> str:
    return f"{a:.0f}" if a >= 100 else f"{a:.3g}"


def _cell(times: dict, batch: int, base: float | None) -> str:
    if "median" not in times:
        return "wrong" if "wrong" in times else "–"
    text = ("~" if times["rows"] < batch else "") + _number(1e3 * times["median"])
    return text if base is None else f"{text} ×{_number(base / times['median'])}"


def _rows(results: dict) -> list[str]:
    lines = []
    for row in results["dist"]:
        for threads, ways in row["threads"].items():
            base = next((ways[w]["median"] for w in ("broadcast", "cdist") if "median" in ways[w]), None)
            cells = [_cell(ways[way], row["case"]["batch"], base) for way in WAYS]
            p = row["case"]["p"].replace("inf", "∞")
            lines.append(f"| p = {p}, {row['size']} | {threads} | " + " | ".join(cells) + " |")
    return lines


def _asked(results: dict) -> list[str]:
    """The ratios of the first case, beside those that were asked for."""
    asked, lines, (row, *_) = results["asked"], [], results["dist"]
    for threads, ways in row["threads"].items():
        for text, way, other in (
            ("native over broadcast", "native", "broadcast"),
            ("body over broadcast", "body", "broadcast"),
            ("native over linf_plugin", "native", "torch"),
        ):
            if "median" in ways[way] and "median" in ways[other]:
                reached = ways[other]["median"] / ways[way]["median"]
                words = f"{WAYS[way]}, times as fast as {WAYS[other]}, threads: {threads}"
                lines.append(f"| {words} | ≥ {asked[text]:g} | {_number(reached)} |")
    if "bytes" in (body := results["memory"]["body"]):
        lines.append(f"| MB that the body needs | < {asked['body bytes'] / 1e6:g} | {body['bytes'] / 1e6:.3g} |")
    made = results["export"]
    lines.append(f"| seconds of the export | < {asked['export seconds']:g} | {made['seconds']:.3g} |")
    if made["peak"]:
        lines.append(f"| peak GB of the export | < {asked['export bytes'] / 1e9:g} | {made['peak'] / 1e9:.3g} |")
    return lines


def table(results: dict) -> str:
    """The results of ``measure`` in Markdown."""
    machine, versions, made = results["machine"], results["versions"], results["export"]
    memory = [
        f"{WAYS[way]} {_number(m['bytes'] / 1e6)} MB" + (f" ({m['rows']} rows)" if way == "broadcast" else "")
        if "bytes" in m
        else f"{WAYS[way]} – ({m['reason']})"
        for way, m in results["memory"].items()
    ]
    same = "the same bits as PyTorch" if made["bit_equal"] else "other bits than PyTorch"
    lines = [
        "# Distances in onnxruntime",
        "",
        f"{machine['processor']}, {machine['cores']} cores; compiled operator: {machine['native']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ".",
        "",
        f"Milliseconds, medians of {results['repeats']} in turns, and × how many times as fast as the first of "
        "broadcast and torch.cdist; ~ in proportion to a part of the batch. Sizes are batch×in×out.",
        "",
        "| distance | threads | " + " | ".join(WAYS.values()) + " |",
        "| --- | ---: |" + " ---: |" * len(WAYS),
        *_rows(results),
        "",
        f"Memory beyond the session's, {results['dist'][0]['size']}, one thread: {', '.join(memory)}.",
        "",
        f"Export of a linf-mlp of depth {made['depth']}, width {made['width']} ({made['weights'] / 1e6:.0f} MB): "
        f"{made['seconds']:.3g} s"
        + (f", peak {made['peak'] / 1e9:.3g} GB" if made["peak"] else "")
        + f"; one image in onnxruntime gives {same}.",
        "",
        "| | asked | reached |",
        "| --- | ---: | ---: |",
        *_asked(results),
    ]
    if found := wrong(results):
        lines += ["", *(f"Wrong: {text}." for text in found)]
    return "\n".join(lines) + "\n"

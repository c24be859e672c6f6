"""The table of a search, from its JSON alone."""

COLUMNS = (
    "graphs",
    "holds",
    "wrong",
    "not a number",
    "error",
    "read as another function",
    "refused",
    "crossed",
    "let through",
)


def _rows(groups: dict[str, dict], first: str) -> list[str]:
    header = [first, *COLUMNS]
    lines = [header, ["---"] + ["---:"] * len(COLUMNS)]
    lines += [[name, *(f"{group[column]:,}" for column in COLUMNS)] for name, group in groups.items()]
    return ["| " + " | ".join(line) + " |" for line in lines]


def table(results: dict) -> str:
    """Markdown: a row a method, a row a class of auto_LiRPA, and a row an operator as it is written in torch."""
    version, methods = results["versions"]["auto_LiRPA"], results["methods"]
    calls = sum(group[key] for group in methods.values() for key in ("holds", "wrong", "not a number"))
    wrong = sum(group["wrong"] + group["not a number"] for group in methods.values())
    through = len(results["violations"])
    verdict = "no wrong bound" if through == 0 else f"**{through:,} wrong bounds**"
    guarded = f"Behind the guard, {verdict} is let through." if results["guarded"] else "The guard was off."
    classes = {
        name.removeprefix("Bound"): group for name, group in sorted(results["classes"].items()) if group["graphs"]
    }
    missing = ", ".join(name.removeprefix("Bound") for name in results["not_reached"]) or "none"
    return (
        "\n\n".join(
            [
                f"# Operators of auto_LiRPA {version}",
                f"`python -m operators --graphs {results['graphs']} --seed {results['seed']}`: {results['drawn']:,} "
                f"random graphs, of which auto_LiRPA bounds {results['graphs']:,} by some method; each at "
                f"{results['points']:,} points. {calls:,} calls gave bounds, {wrong:,} of them wrong by auto_LiRPA "
                f"alone. {guarded}",
                "A column counts calls: one method in one mode on one graph. *holds*, *wrong* (or of another shape), "
                "*not a number* and *error* are auto_LiRPA alone, as `linf_plugin/bounds/mended.py` mends it. The "
                "guard refuses what is *read as another function* and what is *refused* by name; *crossed* is what "
                "`compute_bounds` stops by itself. *let through* is wrong and returned.",
                "\n".join(_rows(methods, "method")),
                "\n".join(_rows(classes, "class")),
                f"Classes that no graph leads to, which the guard refuses: {missing}.",
                "\n".join(_rows({n: g for n, g in results["operators"].items() if g["graphs"]}, "operator")),
                "Run with " + ", ".join(f"{name} {number}" for name, number in results["versions"].items()) + ".",
            ]
        )
        + "\n"
    )


def refusals() -> str:
    """Markdown: what the guard refuses, a row an operator and case."""
    from linf_plugin.bounds import refused

    methods = {
        refused.ALWAYS: "every",
        refused.LINEAR: "every but IBP",
        (refused.BACKWARD,): "CROWN and what builds on it",
        (refused.FORWARD,): "Forward, Forward+Backward",
    }
    lines = ["| operator | version | methods | where | instead |", "|---|---|---|---|---|"]
    for row in refused.TABLE:
        cells = row.operator.removeprefix("Bound"), ", ".join(row.versions), methods[row.passes], row.where, row.instead
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"

"""The table of a campaign, from its JSON alone."""

TITLES = {
    "lipschitz": "Lipschitz",
    "ibp": "interval",
    "crown-ibp": "CROWN-IBP",
    "crown": "CROWN",
    "alpha-crown": "α-CROWN",
}


def _exponent(name: str) -> float:
    return float(name.removeprefix("p =")) if name.startswith("p =") else 0.0


def _row(name: str, group: dict, methods: list[str]) -> list[str]:
    def share(method: str) -> str:
        counts = group["methods"].get(method)
        return f"{100 * counts['certified'] / counts['balls']:.0f} % of {counts['balls']:,}" if counts else "–"

    violations = sum(counts["violations"] for counts in group["methods"].values())
    amounts = (group[key] for key in ("nets", "points", "attacks"))
    return [name, *(f"{amount:,}" for amount in amounts), *(share(m) for m in methods), f"{violations:,}"]


def table(results: dict) -> str:
    """Markdown: a row a kind of net and exponent."""
    groups, methods = results["groups"], list(results["groups"]["all"]["methods"])
    header = ["net", "nets", "points", "attacks", *(TITLES.get(m, m) for m in methods), "violations"]
    # Kinds of nets, then exponents in ascending order, then all.
    names = sorted(groups, key=lambda name: (name == "all", name.startswith(("no p", "p =")), _exponent(name), name))
    lines = [header, ["---"] + ["---:"] * (len(header) - 1)]
    lines += [_row(name.replace("inf", "∞"), groups[name], methods) for name in names]
    everything = groups["all"]
    wrong = sum(counts["violations"] for counts in everything["methods"].values())
    checks = sum(counts["checks"] for counts in everything["methods"].values())
    nearest = ", ".join(
        f"{TITLES.get(m, m)} {everything['methods'][m].get('nearest', float('nan')):.3g}" for m in methods
    )
    verdict = "No margin is below what is claimed of it." if wrong == 0 else f"**{wrong:,} margins are below a claim.**"
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        "\n\n".join(
            [
                "## Certificates against the float32 program",
                f"`python -m fuzz --seed {results['seed']} --nets {everything['nets']}`: random nets; balls around "
                f"{everything['balls']:,} inputs; in each ball points and attacks (starts of projected gradient "
                "descent), run as users do, and each float32 margin compared exactly with what each method claims of "
                f"the ball: {checks:,} comparisons. A method's column: the share of its balls that it certifies, of "
                "how many.",
                "\n".join("| " + " | ".join(line) + " |" for line in lines),
                f"{verdict} The nearest margin above a claim, in units of 2⁻²⁴ of the largest logit: {nearest}. "
                f"{everything['flipped']:,} times another class reached the label's logit within a ball at whose "
                "centre it does not.",
                f"Run with {versions}.",
            ]
        )
        + "\n"
    )

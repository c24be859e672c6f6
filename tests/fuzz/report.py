"""The tables of a campaign, from its JSON alone."""

from .claims import VERIFY
from .families import FAMILIES
from .tally import ROUNDING

TITLES = {
    "lipschitz": "Lipschitz",
    "lipschitz-l2": "Lipschitz, ℓ2",
    "file": "ONNX file",
    "ibp": "interval",
    "crown-ibp": "CROWN-IBP",
    "crown": "CROWN",
    "alpha-crown": "α-CROWN",
}


def _place(name: str) -> tuple:
    """Kinds of nets, then what groups them in a second way, then all."""
    second = name.startswith(("no p", "p =")) or name.endswith((" weights", " operators"))
    try:
        number = float(name.removeprefix("p =").split(" to ")[0])
    except ValueError:
        number = 0.0
    return name == "all", second, number, name


def _row(name: str, group: dict, methods: list[str]) -> list[str]:
    def share(method: str) -> str:
        counts = group["methods"].get(method)
        return f"{100 * counts['certified'] / counts['balls']:.0f} % of {counts['balls']:,}" if counts else "–"

    violations = sum(counts["violations"] for counts in group["methods"].values())
    amounts = (group[key] for key in ("nets", "points", "attacks"))
    # The first claim about rounding that a family has is shown.
    part = next((group["methods"][m].get("nearest") for m in ROUNDING if m in group["methods"]), None)
    rounding = "–" if part is None else f"{part:.2f}"
    return [name, *(f"{amount:,}" for amount in amounts), *(share(m) for m in methods), rounding, f"{violations:,}"]


def _of_methods(everything: dict, key: str) -> int:
    return sum(counts.get(key, 0) for counts in everything["methods"].values())


def _family(name: str, groups: dict) -> str:
    everything = groups["all"]
    methods = [method for method in TITLES if method in everything["methods"]]
    header = ["net", "nets", "points", "attacks", *(TITLES[m] for m in methods), "rounding", "violations"]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1)]
    lines += [_row(key.replace("inf", "∞"), groups[key], methods) for key in sorted(groups, key=_place)]
    nearest = ", ".join(f"{TITLES[m]} {everything['methods'][m].get('nearest', float('nan')):.3g}" for m in methods)
    text = (
        f"Balls around {everything['balls']:,} inputs, {_of_methods(everything, 'checks'):,} comparisons. The nearest "
        f"margin above a claim, in units of 2⁻²⁴ of the largest logit: {nearest}. {everything['flipped']:,} times "
        "another class reached the label's logit within a ball at whose centre it does not."
    )
    if everything.get("onnxruntime"):
        text += (
            f" onnxruntime computed {everything['onnxruntime']:,} of the points. {everything.get('unexported', 0):,} "
            f"attempts to export a net failed, and {everything.get('unlike', 0):,} files compute another function than "
            "the net, which is no rounding; PyTorch then computed the points."
        )
    if verified := everything["methods"].get(VERIFY):
        text += (
            " Balls are in ℓ2, and *rounding* compares the ℓ2 norm of the errors of all logits with its bound. The "
            "column *ONNX file* is about the radius that an exported file computes; `verify` recomputed "
            f"{verified['checks']:,} such files."
        )
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([f"### {FAMILIES[name].title}", table, text])


def table(results: dict) -> str:
    """Markdown: a table for each family of nets, with a row for each kind."""
    families = results["families"]
    wrong = sum(_of_methods(groups["all"], "violations") for groups in families.values())
    verdict = "No margin is below what is claimed of it." if wrong == 0 else f"**{wrong:,} margins are below a claim.**"
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    amounts = ", ".join(f"{groups['all']['nets']} of `{name}`" for name, groups in families.items())
    return (
        "\n\n".join(
            [
                "## Certificates against the float32 program",
                f"`python -m fuzz --seed {results['seed']}`: random nets, {amounts}. There are points and attacks "
                "(starts of projected gradient descent) in balls around inputs, run as users do, and each float32 "
                "margin is compared exactly with what each method claims of the ball. A method's column: the share of "
                "its balls that it certifies, of how many. The column *rounding*: the largest part of the rounding "
                "error's bound by which a float32 logit differs from the net in float64.",
                verdict,
                *(_family(name, groups) for name, groups in families.items()),
                f"Run with {versions}.",
            ]
        )
        + "\n"
    )

"""What complete verifiers said, and who tried to break certificates, for readers."""

from ..results.schema import Results, VerifierResult
from ..verifiers.complete import COMPLETE
from ..verifiers.verdict import STATUSES, why_unknown
from .words import NONE, attacks_of, eps_text, markdown_rows


def verification(results: Results) -> list[str]:
    """Returns what complete verifiers said, with a row for each method and verifier; empty if none was asked."""
    found = {m.label: m.verification for m in results.methods.values() if m.verification is not None}
    if not found:
        return []
    every, things = found.values(), f"{results.thing}s"
    names = dict.fromkeys(name for v in every for name in v.verifiers)
    rows = [
        [label, *map(str, (v.samples, v.certified, v.broken)), verifier_label(name), *_said(v.verifiers[name])]
        for label, v in found.items()
        for name in v.verifiers
    ]
    limits = " or ".join(f"{limit:g}" for limit in sorted({v.time_limit for v in every}))
    also = f" Certified {things} are asked about too." if any(v.asks_certified for v in every) else ""
    means = "; ".join(f"{verifier_label(name)}: {COMPLETE[name].proves}" for name in names if name in COMPLETE)
    header = ["method", things, "certified", "broken", "verifier", "asked", *STATUSES, "s", "why unknown"]
    return [
        f"Complete verification at ε = {eps_text(results.eps)}. Verifiers are asked about those of the first {things} "
        f"that theorems and attacks leave undecided, for at most {limits} s each.{also}",
        markdown_rows(header, rows, ("verifier", "why unknown")),
        f"Verified is not counted as certified. It is a statement about other arithmetic than float32: {means}. "
        "Falsified: the net itself, in float32, classifies a point in the ball otherwise.",
    ]


def _said(found: VerifierResult) -> list[str]:
    if found.refused is not None:
        return [NONE] * 5 + [found.refused.replace("|", "/")]
    counts = found.asked, len(found.verified), len(found.falsified), found.undecided
    reasons = (reason for reason, rows in found.unknown.items() for _ in rows)
    return [*map(str, counts), f"{found.seconds:.1f}", why_unknown(reasons) or NONE]


def verifier_label(name: str) -> str:
    """Returns the label of a complete verifier.  An unknown name is its own label."""
    return COMPLETE[name].label if name in COMPLETE else name


def breakers_of(results: Results) -> str:
    """Returns the attacks, and the complete verifiers that were asked about certified images; empty without any."""
    found = [m.verification for m in results.methods.values() if m.verification is not None]
    names = dict.fromkeys(name for v in found if v.asks_certified for name in v.verifiers)
    return " or ".join(filter(None, [attacks_of(results), *map(verifier_label, names)]))

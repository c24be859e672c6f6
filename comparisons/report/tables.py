"""Writes tables of runs.  It measures nothing."""

import math
import statistics
from collections.abc import Iterable

from ..attacks.attack import label_of as attack_label
from ..certificates import BEST, in_order, symbol_of_norm
from ..certificates import label_of as certificate_label
from ..results.file import eps_key
from ..results.schema import NO_RECIPE, MethodResult, Results, same_settings

NONE = "–"
WORDS = {"restarts": "random starts"}  # argument of an attack → its words for readers


def percent(fraction: float | None) -> str:
    """Returns a fraction of the images in percent, or a dash for None."""
    return NONE if fraction is None else f"{100 * fraction:.2f}"


def eps_text(eps: float) -> str:
    """Returns ε for a reader: its decimal, or k/255 if that is shorter and ε is the float nearest to it."""
    k = round(255 * eps)
    return min(eps_key(eps), f"{k}/255", key=len) if k / 255 == eps else eps_key(eps)


def markdown_rows(header: list[str], rows: list[list[str]], text: tuple[str, ...] = ()) -> str:
    """Returns a Markdown table.  The first column and those named in ``text`` are aligned to the left."""
    lines = [header, ["---" if i == 0 or name in text else "---:" for i, name in enumerate(header)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def count(n: int | None) -> str:
    if n is None:
        return NONE
    return f"{n / 1e6:.2f}M" if n >= 1e6 else f"{n / 1e3:.1f}k"


def images(results: Results) -> str:
    """Returns which images the accuracies count, and how many."""
    return f"{results.test_samples} {'held-out training' if results.held_out else 'test'} images"


def table(results: Results) -> str:
    """Returns Markdown: accuracies at the headline ε, certified accuracy over ε, and what each certificate did.

    If each image was tried with every certificate, each is shown alone; of a cascade, its steps are shown.
    """
    methods, eps, shown = results.methods.values(), results.eps, eps_text(results.eps)
    computed = in_order(list(dict.fromkeys(name for m in methods for name in m.certified)))
    norm = "" if results.norm == math.inf else f" in {symbol_of_norm(results.norm)}"
    attacks = {name: attack_label(name) for name in results.attacks}
    both = "; ".join(
        ": ".join(filter(None, (label, _words(results.attacks[name].arguments)))) for name, label in attacks.items()
    )
    source = f"recipe `{results.recipe}`" if results.recipe != NO_RECIPE else "given nets"
    parts = [
        f"## {results.dataset}, ε = {shown}{norm} ({source}, seed {results.seed})",
        f"Percent of {images(results)}. ε in the pixel range [0, 1]. {both or 'No attack was run'}. "
        f"Certified: by the best certificate of each image. {results.device}.",
        markdown_rows(
            [
                "method",
                "clean",
                *attacks.values(),
                "certified",
                "parameters",
                "pairs/image",
                "s/epoch",
                "epochs",
                "certify s",
            ],
            [
                [
                    m.label,
                    percent(m.clean),
                    *(percent(m.attacked[name][eps]) for name in attacks),
                    percent(m.proved(eps)),
                    count(m.parameters),
                    count(m.pairs_per_sample),
                    _known(m.training.seconds_per_epoch, ".2f"),
                    _known(m.training.epochs),
                    f"{m.certify_seconds:.1f}",
                ]
                for m in methods
            ],
        ),
        f"Certified ({', '.join(attacks.values())}) over ε:" if attacks else "Certified over ε:",
        markdown_rows(
            ["method", *(f"ε = {eps_text(e)}" for e in results.eps_values)],
            [[m.label, *(_certified_and_attacked(m, e) for e in results.eps_values)] for m in methods],
        ),
    ]
    if computed != [BEST]:
        parts += [
            f"Each certificate alone at ε = {shown}:",
            markdown_rows(
                ["method", *(certificate_label(c) for c in computed)],
                [[m.label, *(percent(_alone(m, c, eps)) for c in computed)] for m in methods],
            ),
        ]
    parts += [*_steps(results), verdict(results), *_what_may_fail(results)]
    parts += [f"What is certified of {m.label}: {m.about}." for m in methods if m.about]
    return "\n\n".join(parts) + "\n"


def _known(figure: float | None, form: str = "") -> str:
    return NONE if figure is None else format(figure, form)


def _steps(results: Results) -> list[str]:
    """Returns a table of the steps of cascades at the headline ε, with its title.  It is empty without a cascade."""
    there = {m.label: m.cascade[results.eps] for m in results.methods.values() if results.eps in m.cascade}
    names = in_order(list(dict.fromkeys(step.method for steps in there.values() for step in steps)))
    if not names:
        return []
    rows = []
    for label, steps in there.items():
        done = {step.method: f"{step.certified} of {step.tried}, {step.seconds:.1f} s" for step in steps}
        rows.append([label, *(done.get(name, NONE) for name in names)])
    title = f"Images that each certificate certified at ε = {eps_text(results.eps)}, of those on which it was tried:"
    return [title, markdown_rows(["method", *map(certificate_label, names)], rows)]


def verdict(results: Results) -> str:
    """Returns a sentence: whether an attack contradicts a theorem."""
    if not results.attacks:
        return "No attack has tested these certificates."
    by, wrong = attacks_of(results), results.contradictions
    if wrong:
        return f"**{wrong} certificates are contradicted by {by}: a bound is wrong.**"
    return f"No image is certified at an ε at which {by} broke it."


def attacks_of(results: Results) -> str:
    return " or ".join(map(attack_label, results.attacks))


def _what_may_fail(results: Results) -> list[str]:
    """Returns a line for each certificate that may fail: its failure probability, and how often an attack broke it."""
    found = {}
    for m in results.methods.values():
        for name, certified in m.certified.items():
            if certified.failure and name != BEST:
                before = found.get(name, (0, 0.0))
                found[name] = (before[0] + m.broken.get(name, 0), max(before[1], certified.failure))
    by = attacks_of(results)
    return [
        f"{certificate_label(name)} may be wrong about an image with a probability of {failure:g}: {by} broke {n} that "
        "it certifies."
        for name, (n, failure) in found.items()
    ]


def _words(arguments: dict) -> str:
    """Returns arguments of an attack in words, such as "20 steps, 2 random starts"."""
    return ", ".join(f"{value} {WORDS.get(name, name)}" for name, value in arguments.items())


def _certified_and_attacked(m: MethodResult, eps: float) -> str:
    attacked = ", ".join(percent(accuracy[eps]) for accuracy in m.attacked.values())
    return percent(m.proved(eps)) + f" ({attacked})" * bool(attacked)


def _alone(m: MethodResult, certificate: str, eps: float) -> float | None:
    return m.certified[certificate].accuracy.get(eps) if certificate in m.certified else None


def mean(fractions: list[float]) -> str:
    """Returns the mean in percent, with the sample standard deviation if there are several fractions."""
    spread = f" ± {100 * statistics.stdev(fractions):.2f}" if len(fractions) > 1 else ""
    return percent(statistics.fmean(fractions)) + spread


def groups(runs: list[Results]) -> list[dict[int, tuple[Results, str]]]:
    """Groups the methods of runs that differ only in the seed.  A group is seed → (run, name of the method)."""
    entries = [(run, name) for run in runs for name in run.methods]
    found: dict[tuple, dict] = {}
    for key, (run, name) in zip(same_settings([run.methods[name] for run, name in entries]), entries):
        found.setdefault(key, {})[run.methods[name].identity.seed] = run, name
    return list(found.values())


def over_seeds(runs: list[Results]) -> str:
    """Returns Markdown: means and standard deviations of runs that differ only in the seed, one row per method.

    It is empty if no method was run with two seeds.
    """
    found = groups(runs)
    if all(len(group) < 2 for group in found):
        return ""
    attacks = dict.fromkeys(name for run in runs for name in run.attacks)
    rows = []
    for group in found:
        run, name = next(iter(group.values()))
        measured = [run.methods[name] for run, name in group.values()]
        rows.append(
            [
                f"{run.recipe}: " * (run.recipe != NO_RECIPE) + run.methods[name].label,
                eps_text(run.eps),
                ", ".join(map(str, group)),
                images(run),
                mean([m.clean for m in measured]),
                *(attacked(measured, attack, run.eps) for attack in attacks),
                mean([m.proved(run.eps) for m in measured]),
                _known(_mean_or_none([m.training.seconds_per_epoch for m in measured]), ".2f"),
            ]
        )
    columns = [f"{attack_label(attack)} %" for attack in attacks]
    header = ["recipe: method", "ε", "seeds", "of", "clean %", *columns, "certified %", "s/epoch"]
    return "## Over seeds: mean ± standard deviation\n\n" + markdown_rows(header, rows) + "\n"


def _mean_or_none(figures: list[float | None]) -> float | None:
    return None if None in figures else statistics.fmean(figures)


def attacked(measured: Iterable[MethodResult], attack: str, eps: float) -> str:
    """Returns the mean accuracy under an attack, or a dash if the attack was not run."""
    found = [m.attacked[attack][eps] for m in measured if attack in m.attacked]
    return mean(found) if found else NONE

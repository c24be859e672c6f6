"""Writes the table of a run.  It measures nothing."""

from ..attacks.attack import label_of as attack_label
from ..certificates import BEST, in_order
from ..certificates import label_of as certificate_label
from ..results.schema import NO_RECIPE, MethodResult, Results
from .costs import cost_table
from .rows import MARK, Row, minutes_text, rows_of_run, said_uneven, uneven
from .statistics import interval
from .verification import breakers_of, verification
from .words import (
    ABOUT_RADII,
    ALL,
    NONE,
    any_other_norm,
    attack_columns,
    attacked_accuracy,
    attacks_of,
    eps_text,
    images,
    in_its_norm,
    interval_text,
    known,
    markdown_rows,
    percent,
    radii_text,
    recipe_of,
    unit,
)

WORDS = {"restarts": "random starts"}  # argument of an attack → its words for readers


def table(results: Results, both: bool | None = None) -> str:
    """Returns Markdown: accuracies at the headline ε, certified accuracy over ε, and what each certificate did.

    If each image was tried with every certificate, each is shown alone; of a cascade, its steps are shown.

    Args:
        both: whether rows show the radii in ℓ∞ and in ℓ2; by default for every norm except ℓ∞.
    """
    methods, eps, shown = list(results.methods.values()), results.eps, eps_text(results.eps)
    rows = rows_of_run(results)
    trained = _trained(rows)
    computed = in_order(list(dict.fromkeys(name for m in methods for name in m.certified)))
    both = any_other_norm([results]) if both is None else both
    norm, radii = in_its_norm(results), radii_text(results, eps) if both else {}
    attacks = attack_columns([results])
    attacks_said = attacks_in_words(results)
    source = recipe_of(results) if results.recipe != NO_RECIPE else "given nets"
    whole = ", the data have no test part" if results.train_samples == 0 else ""
    parts = [
        f"## {results.dataset}, ε = {shown}{norm} ({source}, seed {results.seed})",
        f"Percent of {images(results)}{whole}. ε in the {unit(results)}. {attacks_said or 'No attack was run'}. "
        f"Certified: by the best certificate of each {results.thing}. {results.device}.",
        markdown_rows(
            ["method", "clean", *attacks.values(), "certified", *radii, *trained],
            [
                [
                    m.label,
                    percent(m.clean),
                    *(percent(attacked_accuracy(m, name, eps)) for name in attacks),
                    percent(m.proved(eps)),
                    *radii.values(),
                    *of_training,
                ]
                for m, *of_training in zip(methods, *trained.values())
            ],
        ),
        *filter(None, [ABOUT_RADII * bool(radii), said_uneven(rows)]),
        "95 % Clopper–Pearson intervals of these accuracies, in percent:",
        markdown_rows(
            ["method", "clean", *attacks.values(), "certified"],
            [
                [
                    m.label,
                    *(
                        interval_text(interval(accuracy, results.test_samples))
                        for accuracy in (m.clean, *(attacked_accuracy(m, name, eps) for name in attacks), m.proved(eps))
                    ),
                ]
                for m in methods
            ],
        ),
        f"Certified ({list(attacks.values())[-1]}) over ε:" if attacks else "Certified over ε:",
        markdown_rows(
            ["method", *(f"ε = {eps_text(e)}" for e in results.eps_values)],
            [[m.label, *(_certified_and_attacked(m, e) for e in results.eps_values)] for m in methods],
        ),
    ]
    if computed != [BEST]:
        parts += [
            f"Each certificate, with those that it contains, at ε = {shown}:",
            markdown_rows(
                ["method", *(certificate_label(c) for c in computed)],
                [[m.label, *(percent(_alone(m, c, eps)) for c in computed)] for m in methods],
            ),
        ]
    parts += [
        *cost_table(results),
        *_steps(results),
        *verification(results),
        verdict(results),
        *_what_may_fail(results),
    ]
    parts += [f"What is certified of {m.label}: {m.about}." for m in methods if m.about]
    return "\n\n".join(parts) + "\n"


def _trained(rows: list[Row]) -> dict[str, list[str]]:
    """Returns header → cells about training, of the columns that have any figure."""
    longer = uneven(rows)
    columns = {
        "minutes": [minutes_text(row.minutes) + f" {MARK}" * (i in longer) for i, row in enumerate(rows)],
        "epochs": [known(row.m.training.epochs) for row in rows],
        "trials": [known(row.trials) for row in rows],
    }
    return {header: cells for header, cells in columns.items() if set(cells) != {NONE}}


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
    things = f"{results.thing.capitalize()}s"
    title = f"{things} that each certificate certified at ε = {eps_text(results.eps)}, of those on which it was tried:"
    return [title, markdown_rows(["method", *map(certificate_label, names)], rows)]


def verdict(results: Results) -> str:
    """Returns a sentence: whether an attack, or a verifier that was asked about certified images, breaks a theorem."""
    by, wrong = breakers_of(results), results.contradictions
    if not by:
        return "No attack has tested these certificates."
    if wrong:
        return f"**{wrong} certificates are contradicted by {by}: a bound is wrong.**"
    return f"No {results.thing} is certified at an ε at which {by} broke it."


def _what_may_fail(results: Results) -> list[str]:
    """Returns a line for each certificate that may fail: its failure probability, and how often an attack broke it."""
    found = {}
    for m in results.methods.values():
        for name, certified in m.certified.items():
            if certified.failure and name != BEST:
                before = found.get(name, (0, 0.0))
                found[name] = (before[0] + m.broken.get(name, 0), max(before[1], certified.failure))
    by, one = attacks_of(results), "an image" if results.thing == "image" else "a sample"
    return [
        f"{certificate_label(name)} may be wrong about {one} with a probability of {failure:g}: {by} broke {n} that it "
        "certifies."
        for name, (n, failure) in found.items()
    ]


def attacks_in_words(results: Results) -> str:
    """Returns the attacks with their arguments, such as "PGD: 20 steps, 2 random starts"; empty without any."""
    said = {attack_label(name): _words(attack.arguments) for name, attack in results.attacks.items()}
    return "; ".join(": ".join(filter(None, pair)) for pair in said.items())


def _words(arguments: dict) -> str:
    """Returns arguments of an attack in words, such as "20 steps, 2 random starts"."""
    return ", ".join(f"{value} {WORDS.get(name, name)}" for name, value in arguments.items())


def _certified_and_attacked(m: MethodResult, eps: float) -> str:
    attacked = attacked_accuracy(m, ALL, eps)
    return percent(m.proved(eps)) + (f" ({percent(attacked)})" if attacked is not None else "")


def _alone(m: MethodResult, certificate: str, eps: float) -> float | None:
    return m.certified[certificate].accuracy.get(eps) if certificate in m.certified else None

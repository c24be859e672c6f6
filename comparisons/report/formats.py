"""The tables for other programs: CSV for spreadsheets and scripts, LaTeX for papers."""

import math
from typing import Any

from linf_plugin import extras

from ..certificates import BEST, in_norm, name_of_norm
from ..results.file import eps_key
from ..results.schema import MethodResult, Results
from .rows import minutes_of, minutes_text, rows_of, titles
from .seeds import attacked
from .statistics import interval
from .words import (
    BOTH,
    any_other_norm,
    attack_columns,
    by_norm,
    eps_text,
    in_its_norm,
    interval_text,
    known,
    radii_text,
)

SIGNS = {  # signs of labels and figures → LaTeX that every engine sets
    "ℓ∞": r"$\ell_\infty$",
    "ℓ2": r"$\ell_2$",
    "ℓ": r"$\ell$",
    "∞": r"$\infty$",
    "±": r"$\pm$",
    "ε": r"$\varepsilon$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "κ": r"$\kappa$",
    "σ": r"$\sigma$",
    "≤": r"$\le$",
    "…": r"\ldots{}",
}


def _pandas():
    with extras.named():
        import jinja2  # noqa: F401 pandas needs it for LaTeX, and names no extra of ours
        import pandas

    return pandas


def csv(runs: list[Results]) -> str:
    """Returns CSV: one row for each run and method, with figures as they were measured, at the headline ε of the run.

    Accuracies are fractions.  eps_linf and eps_l2 are the headline in both norms.  Columns that end in _low and _high
    are Clopper–Pearson intervals.  Columns such as certified_0.02 are the accuracies at other ε.
    """
    found = _pandas().DataFrame([_record(run, name, m) for run in runs for name, m in run.methods.items()])
    return found.to_csv(index=False, lineterminator="\n")


def _record(run: Results, name: str, m: MethodResult) -> dict[str, Any]:
    accuracies = {"clean": m.clean}
    accuracies |= {f"attacked_{attack}": accuracy[run.eps] for attack, accuracy in m.attacked.items()}
    accuracies["certified"] = m.proved(run.eps)
    record: dict[str, Any] = {
        "recipe": run.recipe,
        "changed": "; ".join(run.changed),
        "dataset": run.dataset,
        "norm": name_of_norm(run.norm),
        "eps": eps_key(run.eps),
        **{f"eps_{name_of_norm(norm)}": in_norm(run.eps, run.norm, norm, _size(run)) for norm in BOTH},
        "seed": m.identity.seed,
        "method": name,
        "kind": m.kind,
        "label": m.label,
        "samples": run.test_samples,
    }
    for key, accuracy in accuracies.items():
        low, high = interval(accuracy, run.test_samples)
        record |= {key: accuracy, f"{key}_low": low, f"{key}_high": high}
    for certificate, proved in m.certified.items():
        if certificate != BEST:
            record[f"certified_by_{certificate}"] = proved.accuracy.get(run.eps)
    for eps in run.eps_values:
        record |= {f"attacked_{attack}_{eps_key(eps)}": m.attacked[attack][eps] for attack in m.attacked}
        record[f"certified_{eps_key(eps)}"] = m.proved(eps)
    t = m.training
    return record | {
        "minutes": minutes_of(m),
        "epochs": t.epochs,
        "seconds_per_epoch": t.seconds_per_epoch,
        "peak_memory_mib": t.peak_memory_mib,
        "certify_seconds": m.certify_seconds,
        "attack_seconds": m.attack_seconds,
        **{f"seconds_{key}": seconds for key, seconds in m.seconds.items()},
        "parameters": m.parameters,
        "pairs_per_sample": m.pairs_per_sample,
        "trials": m.trials,
        "device": m.device or run.device,
        "processor": m.processor,
        "date": m.date,
    }


def _size(run: Results) -> int | None:
    return None if run.shape is None else math.prod(run.shape)


def latex(runs: list[Results]) -> str:
    """Returns a LaTeX table with a row for each method: means ± standard deviations over seeds, in percent.

    Each norm has a table of its own.
    """
    return "\n".join(_latex(some, any_other_norm(runs)) for some in by_norm(runs))


def _latex(runs: list[Results], both: bool) -> str:
    pandas, rows = _pandas(), rows_of(runs)
    attacks = attack_columns(runs)
    data = [(row.first[0].dataset, row.first[0].eps) for row in rows]
    several, records = len(set(data)) > 1, []
    for row, of_row in zip(rows, data):
        run, eps = row.first[0], row.first[0].eps
        some = [other for other, of_other in zip(rows, data) if of_other == of_row]
        title = titles(some)[some.index(row)]
        records.append(
            {
                "Method": title,
                **({"Data": f"{run.dataset}, ε = {eps_text(eps)}{in_its_norm(run)}"} if several else {}),
                "Seeds": row.seeds,
                "Min.": minutes_text(row.minutes),
                "Clean": row.percent(lambda m: m.clean),
                **{label: attacked(row.measured, attack, eps) for attack, label in attacks.items()},
                "Certified": row.percent(lambda m, eps=eps: m.proved(eps)),
                "95 % confidence": interval_text(row.interval(lambda m, eps=eps: m.proved(eps))),
                **(radii_text(run, eps) if both else {}),
                "Trials": known(row.trials),
            }
        )
    table = (
        pandas.DataFrame(records).style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    )
    texts = 2 if several else 1
    text = table.to_latex(hrules=True, column_format="l" * texts + "r" * (len(records[0]) - texts))
    for sign, command in SIGNS.items():
        text = text.replace(sign, command)
    norm = f" in {name_of_norm(runs[0].norm)}" * both
    of = "" if several else f" {runs[0].dataset}, eps = {eps_key(runs[0].eps)}{norm}."
    return f"% Needs \\usepackage{{booktabs}}. Percent;{of} Written by linf-compare report.\n{text}"

"""What methods cost: training, memory, operations and certificates, with the ratio to IBP in the same run."""

from collections.abc import Callable

from ..certificates import BEST, in_order
from ..certificates import label_of as certificate_label
from ..results.schema import MethodResult, Results
from .rows import rows_of_run, times_baseline
from .words import NONE, count, known, markdown_rows


def seconds_of(m: MethodResult) -> dict[str, float]:
    """Returns certificate → its seconds over all ε, in order of cost.  Older results have only their sum."""
    there = [name for name in m.certified if name in m.seconds and name != BEST]
    return {name: m.seconds[name] for name in in_order(there)}


def per_epoch(m: MethodResult) -> float | None:
    return m.training.seconds_per_epoch


def certificates_timed(measured: list[MethodResult]) -> list[str]:
    """Returns the certificates whose seconds some of the methods have, in order of cost."""
    return in_order(list(dict.fromkeys(name for m in measured for name in seconds_of(m))))


def times(ratio: float | None) -> str:
    """Returns a ratio for readers, such as "2.10 ×", or a dash."""
    return NONE if ratio is None else f"{ratio:.2f} ×" if ratio < 10 else f"{ratio:.0f} ×"


def cost_table(results: Results) -> list[str]:
    """Returns Markdown: a title and a table of the costs of the methods of a run.  It has columns with figures only."""
    columns: dict[str, Callable[[MethodResult], str]] = {
        "parameters": lambda m: count(m.parameters),
        f"pairs/{results.thing}": lambda m: count(m.pairs_per_sample),
        "s/epoch": lambda m: known(per_epoch(m), ".2f"),
        "to IBP": lambda m: times(ratios[id(m)]),
        "MiB": lambda m: known(m.training.peak_memory_mib, ".0f"),
        "certify s": lambda m: f"{m.certify_seconds:.1f}",
    }
    rows = rows_of_run(results)
    ratios = {id(row.m): times_baseline(row, per_epoch) for row in rows}
    methods = [row.m for row in rows]
    for name in certificates_timed(methods):
        columns[f"{certificate_label(name)} s"] = lambda m, name=name: known(seconds_of(m).get(name), ".1f")
    cells = {header: [of(m) for m in methods] for header, of in columns.items()}
    cells = {header: column for header, column in cells.items() if set(column) != {NONE}}
    title = (
        "Costs. "
        + "To IBP: s/epoch as a multiple of IBP's in the same run. " * ("to IBP" in cells)
        + f"Certificates: seconds for all {results.test_samples} {results.thing}s and all ε."
    )
    return [
        title,
        markdown_rows(["method", *cells], [list(row) for row in zip([m.label for m in methods], *cells.values())]),
    ]

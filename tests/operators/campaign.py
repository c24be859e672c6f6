"""Graph after graph: how often each operator's bounds hold, are wrong, are refused; and what was let through."""

import math
from collections.abc import Iterator

from linf_plugin.bounds import versions

from . import catalog, registry
from .check import CROSSED, ERROR, HOLDS, METHODS, MISREAD, REFUSED, UNKNOWN, WRONG, Finding, check
from .draw import Case, draw

OUTCOMES = (HOLDS, WRONG, UNKNOWN, ERROR)
KEPT = 3  # graphs that are written down for each operator, node and method that is wrong


class Tally:
    """Counts of calls, by operator of the catalog, by class of auto_LiRPA and by method; and the graphs to look at."""

    def __init__(self):
        self.operators: dict[str, dict] = {name: _counts() for name in catalog.CATALOG}
        self.classes: dict[str, dict] = {name: _counts() for name in registry.classes()}
        self.methods: dict[str, dict] = {name: _counts() for name in METHODS}
        self.graphs = self.drawn = 0
        self.violations: list[dict] = []
        self.wrong: list[dict] = []
        self._kept: dict[tuple, int] = {}

    def add(self, case: Case, findings: list[Finding]) -> None:
        """A graph counts where auto_LiRPA bounds it by one method at least."""
        self.drawn += 1
        self.graphs += any(f.alone != ERROR for f in findings)
        self.operators[case.operator]["graphs"] += 1
        for name in {name for f in findings for name in f.classes} & set(self.classes):
            self.classes[name]["graphs"] += 1
        for method in {f.method for f in findings if f.alone != ERROR}:
            self.methods[method]["graphs"] += 1
        for finding in findings:
            groups = [self.operators[case.operator], self.methods[finding.method]]
            groups += [self.classes[name] for name in finding.classes if name in self.classes]
            for group in groups:
                group[finding.alone] += 1
                if finding.guarded in (MISREAD, REFUSED, CROSSED):
                    group[finding.guarded] += 1
                group["let through"] += finding.violation
            if finding.violation:
                self.violations.append(_describe(case, finding))
            if finding.alone in (WRONG, UNKNOWN):
                key = case.operator, finding.node, finding.method
                self._kept[key] = self._kept.get(key, 0) + 1
                if self._kept[key] <= KEPT:
                    self.wrong.append(_describe(case, finding))


def _counts() -> dict[str, int]:
    return dict.fromkeys(("graphs", *OUTCOMES, MISREAD, REFUSED, CROSSED, "let through"), 0)


def _describe(case: Case, finding: Finding) -> dict:
    """What is to be seen of a graph; its number and the seed make it again."""
    return {
        "index": case.index,
        "operator": case.operator,
        "graph": str(case.graph),
        "inputs": [list(x.shape[1:]) for x in case.inputs],
        "perturbed": [box is not None for box in case.boxes],
        "traced": case.traced,
        "options": str(case.options),
        "method": finding.method,
        "mode": finding.mode,
        "alone": finding.alone,
        "amount": finding.amount if math.isfinite(finding.amount) else None,
        "node": finding.node,
        "guarded": finding.guarded,
        "why": finding.reason or finding.error,
    }


def run(tally: Tally, seed: int, first: int, graphs: int, points: int, guarded: bool, bar) -> Iterator[None]:
    """Adds cases number ``first`` and on to ``tally``, one a step, until ``graphs`` of them were bounded.

    ``bar`` is told of each.
    """
    index = first
    with versions.float64_by_default():
        while tally.graphs < graphs:
            case = draw(seed, index)
            before = tally.graphs
            tally.add(case, check(case, points, guarded))
            index += 1
            bar.update(tally.graphs - before)
            wrong = sum(group[WRONG] + group[UNKNOWN] for group in tally.methods.values())
            bar.set_postfix_str(f"{wrong} wrong, {len(tally.violations)} let through")
            yield

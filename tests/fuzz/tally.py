"""Counts of a campaign."""

import math

from .cases import Case

ROUNDING = ("reach-l2", "reach")  # claims about rounding: the largest part of a bound that was seen is counted


class Tally:
    """Counts of a campaign, in groups: all nets of a family, a kind of net, a second way to group them."""

    def __init__(self):
        self.groups: dict[str, dict] = {}

    def _of(self, case: Case) -> list[dict]:
        return [self.groups.setdefault(name, {"methods": {}}) for name in ("all", case.kind, case.sort)]

    def add(self, case: Case, **amounts: int) -> None:
        for group in self._of(case):
            _increase(group, amounts)

    def add_method(self, case: Case, method: str, **amounts: int) -> None:
        for group in self._of(case):
            _increase(group["methods"].setdefault(method, {}), amounts)

    def approach(self, case: Case, method: str, units: float) -> None:
        """A margin was found that is so far above its claim, in units of float32; or an error is such a part of it."""
        for group in self._of(case):
            counts = group["methods"][method]
            if method in ROUNDING:
                counts["nearest"] = max(counts.get("nearest", 0.0), units)
            else:
                counts["nearest"] = min(counts.get("nearest", math.inf), units)

    def join(self, other: dict[str, dict]) -> None:
        """Adds the groups of another tally."""
        for name, group in other.items():
            here = self.groups.setdefault(name, {"methods": {}})
            _increase(here, {key: amount for key, amount in group.items() if key != "methods"})
            for method, counts in group["methods"].items():
                mine = here["methods"].setdefault(method, {})
                nearest = [c["nearest"] for c in (mine, counts) if "nearest" in c]
                _increase(mine, {key: amount for key, amount in counts.items() if key != "nearest"})
                if nearest:
                    mine["nearest"] = (max if method in ROUNDING else min)(nearest)


def _increase(counts: dict[str, int], amounts: dict[str, int]) -> None:
    for key, amount in amounts.items():
        counts[key] = counts.get(key, 0) + amount

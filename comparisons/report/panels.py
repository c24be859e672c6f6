"""The panels of a picture of runs: runs that differ only in the seed share one."""

from dataclasses import dataclass, field

from ..results.schema import NO_RECIPE, MethodResult, Results, same_settings, with_changes
from .words import images


@dataclass
class Panel:
    """Runs of one recipe on the same data, which differ only in the seed, or one run.

    run: the first of them.  lines: name of a method → seed → its figures.
    """

    run: Results
    lines: dict[str, dict[int | None, MethodResult]] = field(default_factory=dict)
    settings: dict[str, tuple] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for of_seed in self.lines.values() for seed in of_seed})

    @property
    def title(self) -> str:
        """The data set, and the recipe if its name does not tell the same."""
        run = self.run
        recipe = with_changes(run.recipe, run.changed) if run.recipe != NO_RECIPE else "given nets"
        return run.dataset if recipe == run.dataset else f"{run.dataset}: {recipe}"

    @property
    def subtitle(self) -> str:
        several = len(self.seeds) > 1
        return f"{images(self.run)}, seed{'s' * several} {', '.join(map(str, self.seeds))}"


def panels_of(runs: list[Results]) -> list[Panel]:
    """Returns the panels of runs, in their order."""
    entries = [(run, name) for run in runs for name in run.methods]
    keys = dict(
        zip(((id(run), name) for run, name in entries), same_settings([run.methods[name] for run, name in entries]))
    )
    found: list[tuple[tuple, Panel]] = []
    for run in runs:
        settings = {name: keys[id(run), name] for name in run.methods}
        facts = _facts(run)
        for theirs, panel in found:
            if facts == theirs and all(panel.settings.get(name, key) == key for name, key in settings.items()):
                break
        else:
            panel = Panel(run)
            found.append((facts, panel))
        panel.settings |= settings
        for name, m in run.methods.items():
            panel.lines.setdefault(name, {})[m.identity.seed] = m
    return [panel for _, panel in found]


def _facts(run: Results) -> tuple:
    """What runs of one panel share.  Given nets have no recipe, so each of their runs has a panel of its own."""
    alone = id(run) if run.recipe == NO_RECIPE else None
    data = {m.digests for m in run.methods.values()}
    asked = run.recipe, run.changed, run.norm, run.eps, run.eps_values, run.attacks, run.held_out
    return alone, asked, run.dataset, run.test_samples, data

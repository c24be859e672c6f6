"""Runs a recipe with several seeds, one folder each; methods × seeds in several processes if asked for."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from linf_plugin.datasets import Dataset, check_published
from linf_plugin.files import WouldReplace
from linf_plugin.training.parallel import Ranks

from ..recipes.recipe import Recipe
from ..results import file
from ..results.schema import Results
from ..verifiers.complete import check_installed
from .data import check_fits
from .failures import MethodsFailed
from .jobs import Job, folder_of_seed, run_jobs
from .plan import Plan, Wanted, plan, results_in
from .run import chosen_of, make_room, run


@dataclass(frozen=True)
class Runs:
    """What a call for several seeds asks for.

    folders: seed → its folder.  methods: as ``run`` takes them.  The other fields are as the arguments of ``run``.
    """

    recipe: Recipe
    folders: dict[int, Path]
    methods: list[str] | None = None
    held_out: float = 0.0
    budget: float | None = None
    resume: bool = False
    force: bool = False

    def plans(self, data: Dataset) -> dict[int, tuple[Wanted, Plan]]:
        """Returns for each seed what is asked for, and what is left to do.

        Raises:
            WouldReplace: something would be replaced in a folder; the message names all of it, in all folders.
            ValueError: as ``run``.
        """
        chosen = chosen_of(self.recipe, self.methods)
        check_published(data)
        check_fits(self.recipe, chosen, data)
        found, refused = {}, []
        for seed, out in self.folders.items():
            wanted = Wanted(self.recipe, chosen, data.identity, seed, self.held_out, self.budget)
            try:
                found[seed] = wanted, plan(wanted, out, resume=self.resume, force=self.force)
            except WouldReplace as error:
                refused.append(error)
        if refused:
            what = "; ".join(error.what for error in refused)
            raise WouldReplace(what, any(error.resumable for error in refused))
        return found

    def in_turn(self, data: Dataset, *, progress: bool, ranks: Ranks = Ranks()) -> list[str]:
        """Runs one seed after the other in this process, and returns a sentence for each method that failed."""
        self.plans(data)  # refuses before any work begins
        failed = []
        for seed, out in self.folders.items():
            try:
                run(
                    self.recipe,
                    data,
                    out,
                    methods=self.methods,
                    seed=seed,
                    held_out=self.held_out,
                    budget=self.budget,
                    resume=self.resume,
                    force=self.force,
                    progress=progress,
                    ranks=ranks,
                )
            except MethodsFailed as error:
                where = f"seed {seed}: " if len(self.folders) > 1 else ""
                failed += [where + line for line in error.lines()]
        return failed

    def at_once(self, name: str, data: Dataset, options: Sequence[str], *, processes: int, progress: bool) -> list[str]:
        """Runs methods × seeds in several processes, and returns a text for each of them that failed.

        name, options: the recipe and the other options of ``linf-compare run``, which each process gets.
        """
        plans = self.plans(data)
        jobs = [Job(key, seed, self.folders[seed]) for seed, (_, found) in plans.items() for key in found.do]
        if jobs and self.recipe.evaluation.verify is not None:
            check_installed(self.recipe.evaluation.verify.methods)
        for seed, (wanted, found) in plans.items():
            for note in found.notes:
                print(note, file=sys.stderr)
            if found.do:
                make_room(wanted, self.folders[seed], found)
        return list(map(str, run_jobs(name, jobs, options, at_once=processes, progress=progress)))

    def results(self) -> list[tuple[Path, Results]]:
        """Returns the folders that have results, with these."""
        found = [(out, results_in(out)) for out in self.folders.values()]
        return [(out, results) for out, results in found if results is not None and results.methods]


def folders_of(out: Path, seeds: Sequence[int], several: bool) -> dict[int, Path]:
    """Returns seed → its folder: ``out`` itself, or a folder in it if several seeds were asked for.

    Raises ValueError if the results of several seeds would stand below those of one: ``report`` reads only the latter.
    """
    if several and (out / file.FILE).exists():
        raise ValueError(
            f"{out} has the {file.FILE} of a run without --seeds, and seeds need a folder of their own: give another "
            "--out"
        )
    return {seed: folder_of_seed(out, seed) if several else out for seed in seeds}

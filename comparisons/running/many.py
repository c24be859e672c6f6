"""Runs a recipe with several seeds, one folder each; methods × seeds in several processes if asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from linf_plugin.datasets import Dataset
from linf_plugin.files import WouldReplace
from linf_plugin.training.parallel import Ranks

from ..recipes.recipe import Recipe
from .data import check_fits
from .failures import MethodsFailed
from .jobs import Failed, Job, folder_of_seed, run_jobs
from .plan import Wanted, plan, results_in
from .run import chosen_of, run


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

    def jobs(self, data: Dataset) -> list[Job]:
        """Returns what is left to do, the seeds in order.

        Raises:
            WouldReplace: something would be replaced in a folder; the message names all of it.
            ValueError: as ``run``.
        """
        chosen = chosen_of(self.recipe, self.methods)
        check_fits(self.recipe, chosen, data)
        found, refused = [], []
        for seed, out in self.folders.items():
            wanted = Wanted(self.recipe, chosen, data.identity, seed, self.held_out, self.budget)
            try:
                found += [Job(key, seed, out) for key in plan(wanted, out, resume=self.resume, force=self.force).do]
            except WouldReplace as error:
                refused.append(error)
        if refused:
            what = "; ".join(error.what for error in refused)
            raise WouldReplace(what, any(error.resumable for error in refused))
        return found

    def in_turn(self, data: Dataset, *, progress: bool, ranks: Ranks) -> list[str]:
        """Runs one seed after the other in this process, and returns a sentence for each method that failed."""
        self.jobs(data)  # refuses before any work begins
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
                failed += [f"seed {seed}: {line}" for line in error.lines()]
        return failed

    def at_once(
        self, name: str, data: Dataset, options: Sequence[str], *, processes: int, progress: bool
    ) -> list[Failed]:
        """Runs methods × seeds in several processes, and returns those that failed.

        name, options: the recipe and the other options of ``linf-compare run``, which each process gets.
        """
        return run_jobs(name, self.jobs(data), options, at_once=processes, progress=progress)

    def results(self) -> list:
        """Returns the results in the folders that have some, with the folder of each."""
        found = [(out, results_in(out)) for out in self.folders.values()]
        return [(out, results) for out, results in found if results is not None and results.methods]


def folders_of(out: Path, seeds: Sequence[int], several: bool) -> dict[int, Path]:
    """Returns seed → its folder: ``out`` itself, or a folder in it if several seeds were asked for."""
    return {seed: folder_of_seed(out, seed) if several else out for seed in seeds}

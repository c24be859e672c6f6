"""The harness from Python: one function, and the tables to which you add your own parts."""

from pathlib import Path

from linf_plugin.datasets import Dataset
from linf_plugin.training.parallel import Ranks

from .recipes.recipe import Recipe, load_recipe, recipe_from
from .results.schema import Results
from .running.data import load_own
from .running.run import run as run_recipe

OWN = "own"  # the name of a recipe that is given as a table


def run(
    recipe: str | Path | dict | Recipe,
    out: str | Path | None = None,
    *,
    data: Dataset | None = None,
    data_dir: str | Path | None = None,
    data_name: str | None = None,
    methods: list[str] | None = None,
    seed: int = 0,
    held_out: float = 0.0,
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
    ranks: Ranks = Ranks(),
) -> Results:
    """Trains, certifies and attacks the methods of a recipe, as ``linf-compare run`` does.

    Args:
        recipe: a name of ``linf-compare list``, the path of a TOML file, or a table as such a file holds it.  It may
            name rows that you have added to the tables of ``comparisons``, such as ``LOSSES`` and ``ARCHITECTURES``.
        out: folder for the results; by default results/ and the name of the recipe.
        data: the data set; by default the one that the recipe names.
        data_dir, data_name: as ``load_dataset`` takes them, for the data set that the recipe names.
        methods, seed, held_out, resume, force, progress, ranks: as ``comparisons.running.run.run`` takes them.

    Returns:
        What is now in ``out/results.json``: ``results.methods[name].proved(eps)`` is the certified accuracy.

    Raises:
        FileNotFoundError, ValueError: the recipe or the data cannot be read; the message says where.
        Others: as ``comparisons.running.run.run``.
    """
    if isinstance(recipe, dict):
        recipe = recipe_from(OWN, "recipe", recipe, Path.cwd())
    elif not isinstance(recipe, Recipe):
        recipe = load_recipe(str(recipe))
    if data is None:
        data = load_own(recipe, None if data_dir is None else Path(data_dir), data_name)
    return run_recipe(
        recipe,
        data,
        out if out is not None else Path("results") / recipe.name,
        methods=methods,
        seed=seed,
        held_out=held_out,
        resume=resume,
        force=force,
        progress=progress,
        ranks=ranks,
    )

"""Searches settings of a method on held-out images, for both clean and certified accuracy, by Optuna."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from linf_plugin.arguments import check_count, check_seed
from linf_plugin.datasets import Dataset, check_published
from linf_plugin.progress import bar, hidden, say
from linf_plugin.training.parallel import Ranks

from ..methods.parts import PARTS
from ..recipes.recipe import MethodRecipe, Recipe
from ..recipes.spaces import spaces_of, value_of
from ..recipes.varied import load_varied
from ..results.schema import MethodResult
from ..results.settings import plain_data, settings_of
from ..results.trials import FILE as FOUND
from ..results.trials import Found, write
from .data import check_fits
from .failures import MethodsFailed
from .journal import Journal, Range, folder_of_trial
from .run import run
from .train import untrained


def search(
    name: str,
    method: str,
    data: Dataset,
    out: str | Path,
    *,
    trials: int,
    settings: Sequence[str] = (),
    epochs: int | None = None,
    vary: Sequence[Range] = (),
    held_out: float = 0.1,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
    ranks: Ranks = Ranks(),
) -> Found:
    """Trains a method ``trials`` times with different settings, and writes what was found to ``out/search.json``.

    The first trial has the settings of the recipe.  A tree-structured Parzen estimator for two aims (Optuna's
    TPESampler) chooses those of the others.  No trial sees the test set.  ``out/search.journal`` has every trial, so
    that ``resume`` goes on, and ``out/trial-NUMBER`` has the results of each.  Equal calls have equal trials, if
    training gives equal bits.

    Args:
        name: of a recipe, or the path of its file.
        method: its method.
        data: the recipe's data set.
        out: folder; it is made if missing.
        trials: how many trials there are in the end, with those of before.
        settings, epochs: changes of the recipe, as ``load_varied`` takes them.
        vary: what to vary: the path of a setting, its least and its largest value, and whether values are drawn by
            their logarithm.  By default it is what ``SPACES`` names and the method has.
        held_out: part of the training set that is measured on.
        seed: of the first weights, of the order of samples, and of the search.
        resume: go on with the search in ``out``.
        force: replace the search in ``out``; with ``resume`` only one that cannot go on.
        progress: whether to show progress bars.
        ranks: as ``run`` takes them.

    Returns the trials and their front.

    Raises:
        ValueError: the method is not in the recipe, or has no setting to vary; a range lacks the recipe's value, or the
            recipe cannot have a value of it; held_out is not in (0, 1).
        WouldReplace: the folder has a search that would be replaced, without ``force``.
        ImportError: Optuna is not installed.
        Contradiction: as ``run``.
    """
    check_count("trials", trials)
    check_seed(seed)
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must lie in (0, 1), got {held_out}")
    recipe, out = load_varied(name, settings, epochs), Path(out)
    if method not in recipe.methods:
        raise ValueError(f"method must be one of {', '.join(recipe.methods)}, got {method!r}")
    ranges = list(vary) or list(spaces_of(recipe, method))
    if not ranges:
        raise ValueError(f"{method} has no setting that a search varies by itself: name some with --vary")
    if twice := [path for path, n in Counter(path for path, *_ in ranges).items() if n > 1]:
        raise ValueError(f"{twice[0]} is varied twice")
    first = {path: value_of(recipe, method, path) for path, *_ in ranges}

    def varied(chosen: dict[str, float]) -> Recipe:
        lines = [f'methods."{method}".{path}={value!r}' for path, value in chosen.items() if value != first[path]]
        found = load_varied(name, [*settings, *lines], epochs)
        # A trial is judged at one ε only, and not by complete verifiers.
        return replace(found, evaluation=replace(found.evaluation, eps_values=(found.eps,), verify=None))

    check_published(data)
    check_fits(recipe, [method], data)
    for path, *ends, _ in vary:
        if not ends[0] <= first[path] <= ends[1]:
            raise ValueError(
                f"{path}: {ends[0]:g}..{ends[1]:g} must contain {first[path]:g}, the value of the recipe, which the "
                "first trial has"
            )
        for end in ends:
            _check_loss(varied({path: end}).methods[method], data)
    asked = {"method": method, "settings": settings_of(recipe, method), "data": data.identity}
    asked |= {"vary": {path: rest for path, *rest in ranges}, "held_out": held_out, "seed": seed}
    journal = Journal(out, plain_data(asked), resume=resume, force=force) if ranks.main else None
    left = ranks.agree(max(0, trials - journal.finished) if journal else None)
    with bar(total=left, desc=f"search {method}", disable=hidden(progress and ranks.main), unit="trial") as shown:
        for _ in range(left):
            trial = ranks.agree(journal.next(ranges, first) if journal else None)
            where, options = folder_of_trial(out, trial.number), {"seed": seed, "held_out": held_out, "ranks": ranks}
            try:
                found = _run_one(varied(trial.settings), method, data, where, options)
            except (ValueError, TypeError, MethodsFailed) as error:  # on all ranks
                said, result = f"trial {trial.number} failed: {_why(error)}", None
            else:
                result = found.clean, found.proved(recipe.eps), found.training.seconds or 0.0
                said = f"trial {trial.number}: clean {100 * result[0]:.2f} %, certified {100 * result[1]:.2f} %"
            if journal:
                journal.tell(*result) if result else journal.fail()
                write(out / FOUND, journal.found(recipe, method, held_out))
                say(said)
            shown.update()
    if journal and not left:
        write(out / FOUND, journal.found(recipe, method, held_out))
    return ranks.agree(journal.found(recipe, method, held_out) if journal else None)


def _check_loss(settings: MethodRecipe, data: Dataset) -> None:
    """Raises ValueError if the loss of a method refuses its arguments, which it does only once it has a net."""
    PARTS["loss"].resolve(settings.loss, untrained(settings, data).eval(), settings.schedule)


def _run_one(recipe: Recipe, method: str, data: Dataset, out: Path, options: dict) -> MethodResult:
    """Runs one trial.  Raises ImportError if a package is missing, because no other trial would have it."""
    try:
        run_options = {"methods": [method], "force": True, "resume": True, "progress": False, **options}
        return run(recipe, data, out, **run_options).methods[method]
    except MethodsFailed as error:
        failure = error.failures[method]
        if isinstance(failure, ImportError):
            raise failure from error
        raise


def _why(error: Exception) -> str:
    return error.lines()[0].partition("failed: ")[2] if isinstance(error, MethodsFailed) else str(error)

"""Searches settings of a method on held-out images, for both clean and certified accuracy, by Optuna."""

from collections.abc import Sequence
from pathlib import Path

from linf_plugin import extras
from linf_plugin.datasets import Dataset
from linf_plugin.files import WouldReplace
from linf_plugin.progress import bar, hidden, say
from linf_plugin.training.parallel import Ranks

from ..recipes.recipe import Recipe
from ..recipes.spaces import spaces_of
from ..recipes.varied import load_varied
from ..results.settings import plain_data, settings_of
from ..results.trials import FILE, Found, Trial, write
from .run import run

JOURNAL = "search.journal"
Vary = tuple[str, float, float, bool]  # path in the method's table, least and largest value, whether by the logarithm


def search(
    name: str,
    method: str,
    data: Dataset,
    out: Path,
    *,
    trials: int,
    settings: Sequence[str] = (),
    epochs: int | None = None,
    vary: Sequence[Vary] = (),
    held_out: float = 0.1,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
    ranks: Ranks = Ranks(),
) -> Found:
    """Trains a method ``trials`` times with other settings, and returns what was found.

    A tree-structured Parzen estimator for several aims (Optuna's TPESampler) chooses the settings.  The first trial has
    those of the recipe.  No trial sees the test set.  The journal ``out/search.journal`` has every trial, so that
    ``resume`` goes on with it; each trial's results are in ``out/trial-NUMBER``.

    Args:
        name: of a recipe, or the path of its file.
        method: its method.
        data: the recipe's data set.
        out: folder; it is made if missing.
        trials: how many trainings there are in the end, with those of before.
        settings, epochs: changes of the recipe, as ``load_varied`` takes them.
        vary: the settings to vary.  By default those of ``SPACES`` that the method has.
        held_out: part of the training set that is measured on.
        seed: of the first weights, of the order of samples, and of the search.
        resume, force: as ``run``.
        progress: whether to show progress bars.
        ranks: as ``run`` takes them.

    Raises:
        ValueError: the method is not in the recipe, or has no setting to vary; or a journal is of another search.
        WouldReplace: the folder has a search, without ``resume`` or ``force``.
        ImportError: Optuna is not installed.
    """
    with extras.named():
        import optuna

    recipe = load_varied(name, settings, epochs)
    if method not in recipe.methods:
        raise ValueError(f"method must be one of {', '.join(recipe.methods)}, got {method!r}")
    spaces = list(vary) or list(spaces_of(recipe, method))
    if not spaces:
        raise ValueError(f"{method} has no setting that a search varies by itself: name some with --vary")
    for path, *_ in spaces:
        _value_of(recipe, method, path)
    asked = plain_data({"settings": settings_of(recipe, method), "vary": spaces, "held_out": held_out, "seed": seed})
    study = _study(optuna, out, asked, resume, force)
    done = [t for t in study.trials if t.state.is_finished()]
    if not done:
        study.enqueue_trial({path: _value_of(recipe, method, path) for path, *_ in spaces})

    def objective(trial) -> tuple[float, float]:
        chosen = {path: trial.suggest_float(path, low, high, log=log) for path, low, high, log in spaces}
        lines = [f"methods.{method}.{path}={value!r}" for path, value in chosen.items()]
        same = [value == _value_of(recipe, method, path) for path, value in chosen.items()]
        varied = load_varied(name, [*settings, *(line for line, kept in zip(lines, same) if not kept)], epochs)
        found = run(
            varied,
            data,
            out / f"trial-{trial.number:04}",
            methods=[method],
            seed=seed,
            held_out=held_out,
            force=True,
            resume=True,
            progress=False,
            ranks=ranks,
        ).methods[method]
        trial.set_user_attr("seconds", found.training.seconds or 0.0)
        return found.clean, found.proved(recipe.eps)

    with bar(
        total=max(0, trials - len(done)), desc=f"search {method}", disable=hidden(progress), unit="trial"
    ) as shown:

        def note(_, trial) -> None:
            shown.update()
            if trial.values:
                clean, certified = (100 * value for value in trial.values)
                say(f"trial {trial.number}: clean {clean:.2f} %, certified {certified:.2f} %")
            else:
                say(f"trial {trial.number} failed: {trial.user_attrs.get('error', 'see above')}")

        refusals = (ValueError, FloatingPointError, RuntimeError)
        study.optimize(objective, max(0, trials - len(done)), catch=refusals, callbacks=[note])
    found = _found(study, recipe, method, held_out, seed)
    write(out / FILE, found)
    return found


def _value_of(recipe: Recipe, method: str, path: str) -> float:
    settings = recipe.methods[method]
    table, _, key = path.partition(".")
    known = {"loss": settings.loss, "optimizer": settings.optimizer, "schedule": vars(settings.schedule)}
    value = known.get(table, {}).get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"{path} is no number of {method}: its recipe must give it, in loss, optimizer or schedule")
    return float(value)


def _study(optuna, out: Path, asked: dict, resume: bool, force: bool):
    journal = out / JOURNAL
    if journal.exists() and force and not resume:
        journal.unlink()
    if journal.exists() and not resume:
        raise WouldReplace(f"{journal} exists", resumable=True)
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name="search",
        directions=["maximize", "maximize"],
        sampler=optuna.samplers.TPESampler(seed=asked["seed"], multivariate=True, n_startup_trials=8),
        load_if_exists=True,
    )
    if study.user_attrs.get("asked", asked) != asked:
        raise ValueError(f"{journal} is of another search: choose another folder, or give --force")
    study.set_user_attr("asked", asked)
    return study


def _found(study, recipe: Recipe, method: str, held_out: float, seed: int) -> Found:
    finished = [t for t in study.trials if t.values]
    front = {t.number for t in study.best_trials}
    return Found(
        recipe=recipe.name,
        method=method,
        label=recipe.methods[method].label,
        eps=recipe.eps,
        held_out=held_out,
        seed=seed,
        trials=tuple(map(_trial, finished)),
        front=tuple(sorted(front)),
        refused=len([t for t in study.trials if t.state.is_finished() and not t.values]),
    )


def _trial(trial) -> Trial:
    clean, certified = trial.values
    return Trial(trial.number, trial.params, clean, certified, trial.user_attrs["seconds"])

"""Runs a recipe: trains and evaluates each of its methods, and writes results.json after each."""

import math
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn

import linf_plugin
from linf_plugin import Net, extras
from linf_plugin.arguments import check_seed
from linf_plugin.datasets import Dataset, check_published, hold_out
from linf_plugin.files import WouldReplace, replacing
from linf_plugin.training import Trained
from linf_plugin.training.parallel import Ranks

from ..recipes.recipe import Recipe
from ..results import file
from ..results.schema import MethodResult, Results, with_changes
from ..results.settings import settings_of
from ..verifiers.complete import check_installed
from .data import check_fits
from .evaluate import Measured, evaluate
from .failures import fails_alone, raise_failures
from .machine import commit, device_name, now, processor_name, versions
from .per_sample import PerSample
from .plan import Plan, Wanted, plan, results_in
from .rows import remove_rows, write_rows
from .train import report_of, train

LOCK = ".lock"  # the file that a process locks while it writes the results in a folder


def run(
    recipe: Recipe,
    data: Dataset,
    out: str | Path,
    *,
    methods: list[str] | None = None,
    seed: int = 0,
    held_out: float = 0.0,
    budget: float | None = None,
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
    ranks: Ranks = Ranks(),
) -> Results:
    """Runs a recipe and returns what it wrote to ``out/results.json``; each model goes to ``out/METHOD.pt``.

    A method is kept if ``out`` has it finished, with the same recipe, data and seed.  Methods that are not asked for
    are kept as well.

    Args:
        recipe: from ``load_recipe``.
        data: the recipe's data set, or data of your own under a name of their own; ``for_training`` divides data
            without a test part.
        out: folder; it is made if missing.
        methods: names of methods of the recipe; all of them by default.
        seed: seed of initialisation, sample order, augmentation and attack.
        held_out: part of the training set that is kept out of training and measured on, instead of the test set.  A
            choice by such figures uses no test image.  0 measures on the test set.  This part is taken first; a
            method's ``select`` takes its part from the rest.  So the images that choose a model never measure it.
        budget: seconds of training, with validation; each method's schedule is fitted to it.  Certificates and
            attacks are not counted.
        resume: go on with methods that were interrupted in ``out``.
        force: replace the work on these methods in ``out``; with ``resume`` only work that can neither be kept nor
            go on.
        progress: whether to show progress bars.
        ranks: from ``linf_plugin.training.parallel.join``: the device, and the processes that train, certify and
            attack together.  The first process writes.

    Raises:
        WouldReplace: the run would replace work in ``out``, without ``force``; nothing was done.
        OtherData: the data have the name of published data but are not the published data.
        TypeError: seed is no integer.
        ValueError: seed lies outside [0, 2³²), a method is not in the recipe or does not take the data, ``out`` holds
            methods of another run that would share a table with these, or the budget is too short.
        ImportError, FileNotFoundError: a verifier that the recipe names is not installed; nothing was done.
        Contradiction: an attack broke an image that a theorem certifies; the results of finished methods stay.
        MethodsFailed: some methods failed, and the others are in the results.  If none is, and the settings of all are
            wrong (ValueError or TypeError), the first such error is raised.
    """
    chosen = chosen_of(recipe, methods)
    check_seed(seed)
    check_published(data)
    check_fits(recipe, chosen, data)
    wanted, out, where = Wanted(recipe, chosen, data.identity, seed, held_out, budget), Path(out), ranks.device
    found = ranks.agree(plan(wanted, out, resume=resume, force=force))
    if ranks.main:
        for note in found.notes:
            print(note, file=sys.stderr)
    if not found.do:
        return found.there
    if recipe.evaluation.verify is not None:
        check_installed(recipe.evaluation.verify.methods)
    out.mkdir(parents=True, exist_ok=True)
    if held_out:
        data = hold_out(data, held_out)
    results = _empty(wanted, data, device_name(where) + (f", {ranks.world} processes" if ranks.world > 1 else ""))
    x_test, y_test = data.x_test.to(where), data.y_test.to(where)
    failures: dict[str, Exception] = {}
    for key, goes_on in found.do.items():
        try:
            with extras.named("compare"):
                model, trained = train(wanted, key, data, out, ranks=ranks, resume=goes_on, progress=progress)
        except Exception as error:
            # Of several processes only these errors come to all; after another one the others wait for this one.
            if not fails_alone(error) or (ranks.world > 1 and not isinstance(error, (FloatingPointError, ImportError))):
                raise
            failures[key] = error
            continue
        try:
            # No bound of the rounding of cuDNN's fast convolutions is known, so no certificate covers them.
            with torch.backends.cudnn.flags(enabled=False):
                options = {"seed": seed, "progress": progress, "out": out, "ranks": ranks}
                measured, each = evaluate(recipe, key, model.eval(), x_test, y_test, **options)
        except Exception as error:
            if not fails_alone(error):
                raise
            failures[key] = error
            continue
        if ranks.main:
            entry = _entry(wanted, key, model, trained, measured, results)
            results = _store(out, found, wanted, results, key, entry, model.cpu(), each, x_test)
        results = ranks.agree(results)  # the others wait here while the first one verifies and writes
    if failures:
        raise_failures(failures, results)
    return results


def chosen_of(recipe: Recipe, methods: list[str] | None) -> list[str]:
    """Returns the methods that are asked for, each once.  Raises ValueError if the recipe does not have one."""
    chosen = list(recipe.methods) if methods is None else list(dict.fromkeys(methods))
    unknown = [key for key in chosen if key not in recipe.methods]
    if not chosen:
        raise ValueError(f"methods must name at least one of {', '.join(recipe.methods)}")
    if unknown:
        known = ", ".join(recipe.methods)
        raise ValueError(f"methods: {unknown[0]!r} is not in recipe {recipe.name}, which has {known}")
    return chosen


def _empty(wanted: Wanted, data: Dataset, device: str) -> Results:
    recipe = wanted.recipe
    return Results(
        recipe=recipe.name,
        description=recipe.description,
        dataset=wanted.data["dataset"],
        norm=wanted.norm,
        eps=recipe.eps,
        eps_values=tuple(recipe.evaluation.eps_values),
        attacks=wanted.attacks,
        seed=wanted.seed,
        held_out=wanted.held_out,
        train_samples=len(data.x_train),
        test_samples=len(data.x_test),
        shape=data.shape,
        versions=versions(),
        device=device,
        changed=recipe.changed,
    )


def _entry(
    wanted: Wanted, key: str, model: Net, trained: Trained, measured: Measured, results: Results
) -> MethodResult:
    settings = wanted.recipe.methods[key]
    return MethodResult(
        kind=settings.kind,
        label=settings.label,
        **vars(measured),
        parameters=sum(p.numel() for p in model.parameters()),
        pairs_per_sample=model.pairs_per_sample() if isinstance(model, Net) else None,
        training=report_of(trained, settings.select),
        device=results.device,
        versions=results.versions,
        checkpoint=f"{key}.pt",
        data=wanted.data,
        identity=wanted.identity(key),
        settings=settings_of(wanted.recipe, key),
        trials=settings.trials,
        architecture=_for_json(model.spec) if isinstance(model, Net) else None,
        date=now(),
        processor=processor_name(),
        commit=commit(),
    )


def _for_json(value):
    """Returns a spec as plain data of JSON, which has no infinity: p = ∞ becomes "inf"."""
    if isinstance(value, dict):
        return {key: _for_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return list(map(_for_json, value))
    return "inf" if value == math.inf else value


def _metadata(wanted: Wanted, key: str, entry: MethodResult) -> dict:
    """Returns the metadata of the checkpoint.  It has figures only of the test set: an export calls them such."""
    held_out = {"held_out": wanted.held_out}
    return {
        **wanted.data,
        "method": key,
        "recipe": with_changes(wanted.recipe.name, wanted.recipe.changed),
        "norm": wanted.recipe.evaluation.norm,
        "epsilon": wanted.recipe.eps,
        "seed": wanted.seed,
        "versions": entry.versions,
        **(held_out if wanted.held_out else {"results": file.figures(entry)}),
    }


def _save(path: Path, model: nn.Module, metadata: dict) -> None:
    """Saves a ``Net`` with its spec, and the state of any other module, which its own code has to build."""
    if isinstance(model, Net):
        linf_plugin.save(path, model, metadata)
    else:
        with replacing(path) as f:
            torch.save(model.state_dict(), f)


def _store(
    out: Path,
    found: Plan,
    wanted: Wanted,
    results: Results,
    key: str,
    entry: MethodResult,
    model: Net,
    each: PerSample,
    x: Tensor,
) -> Results:
    """Writes one method: its model, its rows for each sample, and results.json with its figures.

    Methods that another call wrote there meanwhile stay.  At every moment the figures in the file are those of the
    model beside it, and of the data and the seed that the file names.

    Raises:
        WouldReplace: another call wrote a method that cannot stay; the state of the training is kept.
    """
    with FileLock(out / LOCK):
        return _store_locked(out, found, wanted, results, key, entry, model, each, x)


def _store_locked(
    out: Path,
    found: Plan,
    wanted: Wanted,
    results: Results,
    key: str,
    entry: MethodResult,
    model: Net,
    each: PerSample,
    x: Tensor,
) -> Results:
    path = out / file.FILE
    there = results_in(out) if found.is_ours else None
    others = {} if there is None else there.methods
    gone = [k for k in others if k == key or wanted.beside(there, k)]
    if new := [k for k in gone if k not in found.methods]:
        raise WouldReplace(f"{path} has {new[0]} of another run, which wrote it meanwhile")
    kept = {k: m for k, m in others.items() if k not in gone}
    if gone:
        file.write(path, replace(results, methods=kept))
        _remove_models(out, gone)
    entry = replace(entry, **write_rows(out, key, each, x, wanted.recipe.eps))
    _save(out / f"{key}.pt", model, _metadata(wanted, key, entry))
    # The order of the recipe, because several processes finish in any order.
    order = dict.fromkeys([*(k for k in wanted.recipe.methods if k == key or k in kept), *kept])
    results = replace(results, methods={k: entry if k == key else kept[k] for k in order})
    file.write(path, results)
    (out / f"{key}.state.pt").unlink(missing_ok=True)
    return results


def _remove_models(out: Path, methods: Iterable[str]) -> None:
    """Removes the models of methods, and what is known of each sample, after their figures were removed."""
    for key in methods:
        (out / f"{key}.pt").unlink(missing_ok=True)
        remove_rows(out, key)


def make_room(wanted: Wanted, out: Path, found: Plan) -> None:
    """Removes the results that a plan replaces because no table can hold them and those of this run.

    ``run`` does so itself when it writes its first method.  It cannot where several processes do one method each.
    """
    gone = [key for key in found.methods if wanted.beside(found.there, key)]
    if found.is_ours and not gone:
        return
    kept = {key: m for key, m in found.methods.items() if key not in gone}
    with FileLock(out / LOCK):
        if kept:
            file.write(out / file.FILE, replace(found.there, methods=kept))
        else:
            (out / file.FILE).unlink(missing_ok=True)
        _remove_models(out, gone)

"""Runs a recipe: trains and evaluates each of its methods, and writes results.json after each."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

import linf_plugin
from linf_plugin import Net
from linf_plugin.datasets import Dataset, check_published, hold_out
from linf_plugin.files import WouldReplace
from linf_plugin.training import Trained
from linf_plugin.training.parallel import Ranks

from ..recipes.recipe import Recipe
from ..results import file
from ..results.schema import MethodResult, Results
from ..results.settings import settings_of
from .evaluate import Measured, evaluate
from .machine import device_name, versions
from .plan import Plan, Wanted, plan, results_in
from .train import report_of, train


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

    A method that is finished in ``out`` by the same recipe, on the same data, with the same seed, is kept, and so are
    methods that are not asked for.

    Args:
        recipe: of ``load_recipe``.
        data: of the recipe's data set, or data of your own, with a name of their own.
        out: folder; made if missing.
        methods: of the recipe; all of them by default.
        seed: of initialisation, sample order, augmentation and attack.
        held_out: train without this part of the training set and measure on it instead of on the test set: what
            is chosen by such figures has not seen a test image.  0 measures on the test set.  It is taken before
            the part that a method's ``select`` chooses its model by: that is never what is measured on.
        budget: seconds of training, validation included, that each method's schedule is fitted to; not of
            certificates and attacks.
        resume: go on with methods that were interrupted in ``out``.
        force: replace what is there of these methods; with ``resume`` only what can neither be kept nor go on.
        progress: whether to show progress bars.
        ranks: of ``linf_plugin.training.parallel.join``: the device, and the processes that train together.  The
            first of them certifies, attacks and writes, while the others wait.

    Raises:
        WouldReplace: ``out`` holds work that would be replaced, without ``force``; nothing was done.
        OtherData: the data have the name of published data and are others.
        ValueError: a method is not in the recipe, ``out`` holds methods of another run that would stand beside these,
            or the budget is too short.
        FloatingPointError: a loss became NaN or infinite.
    """
    chosen = list(recipe.methods) if methods is None else list(dict.fromkeys(methods))
    unknown = [key for key in chosen if key not in recipe.methods]
    if unknown:
        known = ", ".join(recipe.methods)
        raise ValueError(f"methods: {unknown[0]!r} is not in recipe {recipe.name}, which has {known}")
    check_published(data)
    wanted, out, where = Wanted(recipe, chosen, data.identity, seed, held_out, budget), Path(out), ranks.device
    found = ranks.agree(plan(wanted, out, resume=resume, force=force))
    if ranks.main:
        for note in found.notes:
            print(note, file=sys.stderr)
    if not found.do:
        return found.there
    out.mkdir(parents=True, exist_ok=True)
    if held_out:
        data = hold_out(data, held_out)
    results = _empty(wanted, data, device_name(where) + (f", {ranks.world} processes" if ranks.world > 1 else ""))
    x_test, y_test = data.x_test.to(where), data.y_test.to(where)
    for key, goes_on in found.do.items():
        model, trained = train(wanted, key, data, out, ranks=ranks, resume=goes_on, progress=progress)
        if ranks.main:
            # The rounding of cuDNN's fast convolutions has no bound, and no certificate covers them.
            with torch.backends.cudnn.flags(enabled=False):
                measured = evaluate(recipe, key, model, x_test, y_test, seed=seed, progress=progress)
            entry = _entry(wanted, key, model, trained, measured, results)
            results = _store(out, found, wanted, results, key, entry, model.cpu())
        results = ranks.agree(results)  # the others wait here while the first one measures
    return results


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
        versions=versions(),
        device=device,
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
        pairs_per_sample=model.pairs_per_sample(),
        training=report_of(trained, settings.select),
        device=results.device,
        versions=results.versions,
        checkpoint=f"{key}.pt",
        data=wanted.data,
        identity=wanted.identity(key),
        settings=settings_of(wanted.recipe, key),
    )


def _metadata(wanted: Wanted, key: str, entry: MethodResult) -> dict:
    """What goes into the checkpoint.  Figures are of the test set only: an export states them as such."""
    held_out = {"held_out": wanted.held_out}
    return {
        **wanted.data,
        "method": key,
        "recipe": wanted.recipe.name,
        "epsilon": wanted.recipe.eps,
        "seed": wanted.seed,
        "versions": entry.versions,
        **(held_out if wanted.held_out else {"results": file.figures(entry)}),
    }


def _store(
    out: Path, found: Plan, wanted: Wanted, results: Results, key: str, entry: MethodResult, model: Net
) -> Results:
    """Writes one method: its model, and results.json with its figures.

    What another call wrote there meanwhile stays.  At no moment does the file have figures of another model than the
    one that lies beside it, or of other data or another seed than it says.

    Raises:
        WouldReplace: another call wrote what cannot stay; the state of the training is left.
    """
    path = out / file.FILE
    there = results_in(out) if found.is_ours else None
    now = {} if there is None else there.methods
    gone = [k for k in now if k == key or wanted.beside(there, k)]
    if new := [k for k in gone if k not in found.methods]:
        raise WouldReplace(f"{path} has {new[0]} of another run, which wrote it meanwhile")
    kept = {k: m for k, m in now.items() if k not in gone}
    if gone:
        file.write(path, replace(results, methods=kept))
        for k in gone:
            (out / f"{k}.pt").unlink(missing_ok=True)
    linf_plugin.save(out / f"{key}.pt", model, _metadata(wanted, key, entry))
    order = dict.fromkeys([*now, key])
    results = replace(results, methods={k: entry if k == key else kept[k] for k in order if k == key or k in kept})
    file.write(path, results)
    (out / f"{key}.state.pt").unlink(missing_ok=True)
    return results

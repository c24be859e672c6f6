"""Trains, certifies and attacks each method of a recipe, and writes results.json after each."""

import dataclasses
import platform
import statistics
import sys
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import linf_plugin
from linf_plugin import Net
from linf_plugin.bounds import certify_each
from linf_plugin.datasets import Dataset, check_published, hold_out
from linf_plugin.files import WouldReplace, write_json
from linf_plugin.training import Log, Trained, fit, shift_and_flip
from linf_plugin.training.optim import decay_distances
from linf_plugin.training.parallel import Ranks

from ..attacks.pgd import pgd_survives
from ..methods.kinds import METHODS
from ..methods.losses import LOSSES
from ..methods.optimizers import OPTIMIZERS
from ..recipe import MethodRecipe, Recipe
from .existing import RESULTS, Plan, Wanted, plan, read_results, settings_of
from .validation import validation


def eps_key(eps: float) -> str:
    """ε as a key of results.json: its shortest decimal."""
    return repr(float(eps))


def _without_name(table: dict) -> dict:
    return {key: value for key, value in table.items() if key != "name"}


def _versions() -> dict[str, str]:
    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "unknown"

    import auto_LiRPA

    found = {name: of(name) for name in ("torch", "numpy", "adversarial-robustness-toolbox")}
    return {
        "linf-plugin": linf_plugin.__version__,
        "auto_LiRPA": auto_LiRPA.__version__,
        **found,
        "python": platform.python_version(),
    }


def device_name(device: torch.device) -> str:
    """What measured: for tables."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"cpu: {platform.machine()}, {threads} thread{'s' * (threads != 1)}"


def _before_step(settings: MethodRecipe, model: nn.Module, step, lr: float) -> None:
    if settings.clip:
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    if settings.decay:
        decay_distances(model, lr * settings.decay)


def train(
    recipe: Recipe,
    key: str,
    data: Dataset,
    out: Path,
    *,
    seed: int,
    held_out: float,
    budget: float | None,
    ranks: Ranks,
    resume: bool,
    progress: bool,
) -> tuple[Net, Trained]:
    """Trains one method.  Its state is kept in ``out/KEY.state.pt`` while it runs; an epoch is a line of
    ``out/KEY.log.jsonl`` and a point in ``out/tensorboard/KEY``."""
    settings, device = recipe.methods[key], ranks.device
    if settings.select:
        data = hold_out(data, settings.select)  # its test set now is what chooses the model
    torch.manual_seed(seed)
    model = linf_plugin.build(
        settings.architecture["name"],
        shape=data.shape,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        **_without_name(settings.architecture),
    ).to(device)
    loss = LOSSES[settings.loss["name"]](model.eval(), settings.schedule, **_without_name(settings.loss))
    if isinstance(loss, nn.Module):
        loss.to(device)
    optimizer = OPTIMIZERS[settings.optimizer["name"]](model, loss, **_without_name(settings.optimizer))
    augment = validate = None
    if settings.shift or settings.flip:
        augment = partial(
            shift_and_flip,
            pixels=settings.shift,
            flip=settings.flip,
            padding=settings.padding,
            share=settings.shift_share,
        )
    if settings.select:
        validate = validation(data.x_test.to(device), data.y_test.to(device), recipe.eps)
    state = out / f"{key}.state.pt"
    if not resume and ranks.main:
        state.unlink(missing_ok=True)
    with Log(out / f"{key}.log.jsonl", out / "tensorboard" / key) as log:
        trained = fit(
            model,
            loss,
            optimizer,
            settings.schedule,
            data.x_train.to(device),
            data.y_train.to(device),
            batch_size=settings.batch_size,
            seed=seed,
            augment=augment,
            after_backward=partial(_before_step, settings) if settings.clip or settings.decay else None,
            average=settings.average,
            validate=validate,
            validate_every=settings.validate_every,
            budget=budget,
            state_path=state,
            resume=resume,
            identity={"recipe": settings_of(recipe, key), "held_out": held_out},
            log=log,
            ranks=ranks,
            description=METHODS[key].label,
            progress=progress,
        )
    return model, trained


def _report_of(trained: Trained) -> dict:
    """What results.json says about training."""
    history = trained.history
    seconds = sum(h["seconds"] for h in history)
    memory = [h["peak_memory_mib"] for h in history if h["peak_memory_mib"] is not None]
    return {
        "epochs": len(history),
        "seconds_per_epoch": seconds / len(history),
        "loss": [h["loss"] for h in history],
        "train_seconds": seconds + sum(h.get("validation_seconds", 0.0) for h in history),
        "images_per_second": statistics.median(h["images_per_second"] for h in history),
        "peak_memory_mib": max(memory, default=None),
        "schedule": dataclasses.asdict(trained.schedule),
        "chosen": trained.chosen,
        "validation": [{"epoch": h["epoch"], **h["validation"]} for h in history if "validation" in h],
    }


def evaluate(recipe: Recipe, key: str, model: nn.Module, x: Tensor, y: Tensor, *, seed: int, progress: bool) -> dict:
    """Clean, attacked and certified accuracy on (x, y): fractions in [0, 1], per ε."""
    with torch.no_grad():
        clean = torch.cat([model(part).argmax(1) for part in x.split(512)]) == y
    certificates = [c for c in METHODS[key].certificates if c in recipe.certificates]
    certified: dict[str, dict[str, float]] = {name: {} for name in (*certificates, "best")}
    pgd: dict[str, float] = {}
    contradictions, certify_seconds, attack_seconds = 0, 0.0, 0.0
    for eps in tqdm(recipe.eps_values, desc=f"{METHODS[key].label}: certify, attack", disable=not progress, unit="ε"):
        began = time.perf_counter()
        proofs = certify_each(model, x, y, eps, certificates, progress=progress)
        certify_seconds += time.perf_counter() - began
        began = time.perf_counter()
        survives = pgd_survives(model, x, y, eps, seed=seed, **recipe.attack)
        attack_seconds += time.perf_counter() - began
        for name, proved in proofs.items():
            certified[name][eps_key(eps)] = proved.double().mean().item()
        pgd[eps_key(eps)] = survives.double().mean().item()
        contradictions += int((proofs["best"] & ~survives).sum())
    return {
        "clean": clean.double().mean().item(),
        "pgd": pgd,
        "certified": certified,
        "contradictions": contradictions,
        "certify_seconds": certify_seconds,
        "attack_seconds": attack_seconds,
    }


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
) -> dict:
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
    results = {
        **wanted.of_all(),
        "description": recipe.description,
        "train_samples": len(data.x_train),
        "test_samples": len(data.x_test),
        "versions": _versions(),
        "device": device_name(where) + (f", {ranks.world} processes" if ranks.world > 1 else ""),
        "methods": {},
    }
    x_test, y_test = data.x_test.to(where), data.y_test.to(where)
    for key, goes_on in found.do.items():
        model, trained = train(
            recipe,
            key,
            data,
            out,
            seed=seed,
            held_out=held_out,
            budget=budget,
            ranks=ranks,
            resume=goes_on,
            progress=progress,
        )
        if ranks.main:
            # The rounding of cuDNN's fast convolutions has no bound, and no certificate covers them.
            with torch.backends.cudnn.flags(enabled=False):
                measured = evaluate(recipe, key, model, x_test, y_test, seed=seed, progress=progress)
            entry = {
                "label": METHODS[key].label,
                **measured,
                "parameters": sum(p.numel() for p in model.parameters()),
                "pairs_per_sample": model.pairs_per_sample(),
                **_report_of(trained),
                "device": results["device"],
                "versions": results["versions"],
                "select": recipe.methods[key].select,
                "checkpoint": f"{key}.pt",
                "data": wanted.data,
                "identity": wanted.identity(key),
                "settings": settings_of(recipe, key),
            }
            metadata = {
                **wanted.data,
                "method": key,
                "recipe": recipe.name,
                "epsilon": recipe.eps,
                "seed": seed,
                "versions": results["versions"],
                **({"held_out": held_out} if held_out else {}),
                **({} if held_out else {"results": measured}),  # of the test set only
            }
            _store(out, found, wanted, results, key, entry, model.cpu(), metadata)
        results["methods"] = ranks.agree(results["methods"])  # the others wait here while the first one measures
    return results


def _store(
    out: Path, found: Plan, wanted: Wanted, results: dict, key: str, entry: dict, model: Net, metadata: dict
) -> None:
    """Writes one method: its model, and results.json with its figures.

    What another call wrote there meanwhile stays.  At no moment does the file have figures of another model than the
    one that lies beside it, or of other data or another seed than it says.

    Raises:
        WouldReplace: another call wrote what cannot stay; the state of the training is left.
    """
    path = out / RESULTS
    now = read_results(path) if found.is_ours else {"methods": {}}
    gone = [k for k in now["methods"] if k == key or wanted.beside(now, k)]
    if new := [k for k in gone if k not in found.there["methods"]]:
        raise WouldReplace(f"{path} has {new[0]} of another run, which wrote it meanwhile")
    results["methods"] = {k: m for k, m in now["methods"].items() if k not in gone}
    if gone:
        write_json(path, results)
        for k in gone:
            (out / f"{k}.pt").unlink(missing_ok=True)
    linf_plugin.save(out / f"{key}.pt", model, metadata)
    order = dict.fromkeys([*now["methods"], key])
    results["methods"] = {k: entry if k == key else results["methods"][k] for k in order if k == key or k not in gone}
    write_json(path, results)
    (out / f"{key}.state.pt").unlink(missing_ok=True)

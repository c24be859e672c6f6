"""Trains, certifies and attacks each method of a recipe, and writes results.json after each."""

import dataclasses
import hashlib
import json
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
from linf_plugin.checkpoint import replacing
from linf_plugin.datasets import Dataset, hold_out
from linf_plugin.training import Log, Trained, fit, shift_and_flip
from linf_plugin.training.optim import decay_distances
from linf_plugin.training.parallel import Ranks

from .attacks import pgd_survives
from .methods import LOSSES, METHODS, OPTIMIZERS
from .recipe import MethodRecipe, Recipe
from .validation import validation

RESULTS = "results.json"


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
        "linf-plugin": linf_plugin.__version__, "auto_LiRPA": auto_LiRPA.__version__, **found,
        "python": platform.python_version(),
    }


def device_name(device: torch.device) -> str:
    """What measured: for tables."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"cpu: {platform.machine()}, {threads} thread{'s' * (threads != 1)}"


def _settings(recipe: Recipe, key: str) -> dict:
    """All that the recipe says about a method: plain data."""
    settings = dataclasses.asdict(recipe)
    settings["methods"] = settings["methods"][key]
    del settings["description"]
    return settings


def identity_of(recipe: Recipe, key: str, seed: int, held_out: float, budget: float | None) -> dict:
    """What must agree for results to be kept, or averaged over seeds: plain data."""
    text = json.dumps(_settings(recipe, key), sort_keys=True)
    return {
        "recipe": recipe.name, "dataset": recipe.dataset, "method": key, "seed": seed, "held_out": held_out,
        **({} if budget is None else {"budget": budget}),
        "settings": hashlib.sha256(text.encode()).hexdigest(),
    }


def _before_step(settings: MethodRecipe, model: nn.Module, step, lr: float) -> None:
    if settings.clip:
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    if settings.decay:
        decay_distances(model, lr * settings.decay)


def train(
    recipe: Recipe, key: str, data: Dataset, out: Path, *, seed: int, held_out: float, budget: float | None,
    ranks: Ranks, resume: bool, progress: bool,
) -> tuple[Net, Trained]:
    """Trains one method.  Its state is kept in ``out/KEY.state.pt`` while it runs; an epoch is a line of
    ``out/KEY.log.jsonl`` and a point in ``out/tensorboard/KEY``."""
    settings, device = recipe.methods[key], ranks.device
    if settings.select:
        data = hold_out(data, settings.select)  # its test set now is what chooses the model
    torch.manual_seed(seed)
    model = linf_plugin.build(
        settings.architecture["name"], shape=data.shape, classes=data.classes, mean=data.mean, std=data.std,
        **_without_name(settings.architecture),
    ).to(device)
    loss = LOSSES[settings.loss["name"]](model.eval(), settings.schedule, **_without_name(settings.loss))
    if isinstance(loss, nn.Module):
        loss.to(device)
    optimizer = OPTIMIZERS[settings.optimizer["name"]](model, loss, **_without_name(settings.optimizer))
    augment = validate = None
    if settings.shift or settings.flip:
        augment = partial(
            shift_and_flip, pixels=settings.shift, flip=settings.flip, padding=settings.padding,
            share=settings.shift_share,
        )
    if settings.select:
        validate = validation(data.x_test.to(device), data.y_test.to(device), recipe.eps)
    state = out / f"{key}.state.pt"
    if not resume and ranks.main:
        state.unlink(missing_ok=True)
    with Log(out / f"{key}.log.jsonl", out / "tensorboard" / key) as log:
        trained = fit(
            model, loss, optimizer, settings.schedule, data.x_train.to(device), data.y_train.to(device),
            batch_size=settings.batch_size, seed=seed, augment=augment,
            after_backward=partial(_before_step, settings) if settings.clip or settings.decay else None,
            average=settings.average, validate=validate, validate_every=settings.validate_every, budget=budget,
            state_path=state, resume=resume, identity={"recipe": _settings(recipe, key), "held_out": held_out},
            log=log, ranks=ranks, description=METHODS[key].label, progress=progress,
        )
    return model, trained


def _report_of(trained: Trained) -> dict:
    """What results.json says about training."""
    history = trained.history
    seconds = sum(h["seconds"] for h in history)
    memory = [h["peak_memory_mib"] for h in history if h["peak_memory_mib"] is not None]
    return {
        "epochs": len(history), "seconds_per_epoch": seconds / len(history), "loss": [h["loss"] for h in history],
        "train_seconds": seconds + sum(h.get("validation_seconds", 0.0) for h in history),
        "images_per_second": statistics.median(h["images_per_second"] for h in history),
        "peak_memory_mib": max(memory, default=None),
        "schedule": dataclasses.asdict(trained.schedule),
        "chosen": trained.chosen,
        "validation": [{"epoch": h["epoch"], **h["validation"]} for h in history if "validation" in h],
    }


def evaluate(
    recipe: Recipe, key: str, model: nn.Module, x: Tensor, y: Tensor, *, seed: int, progress: bool
) -> dict:
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
        "clean": clean.double().mean().item(), "pgd": pgd, "certified": certified, "contradictions": contradictions,
        "certify_seconds": certify_seconds, "attack_seconds": attack_seconds,
    }


def write_json(path: Path, content: dict) -> None:
    """Atomically: a kill leaves the old file or the new one."""
    with replacing(path) as f:
        f.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def _finished(recipe: Recipe, out: Path, seed: int, held_out: float, budget: float | None) -> dict:
    """Methods of an earlier run in ``out`` that would be repeated exactly."""
    path = out / RESULTS
    if not path.exists():
        return {}
    try:
        return {
            key: m for key, m in json.loads(path.read_text(encoding="utf-8"))["methods"].items()
            if key in recipe.methods and m["identity"] == identity_of(recipe, key, seed, held_out, budget)
            and (out / f"{key}.pt").exists()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a results file of linf-compare, there is nothing to resume") from error


def run(
    recipe: Recipe, data: Dataset, out: str | Path, *, methods: list[str] | None = None, seed: int = 0,
    held_out: float = 0.0, budget: float | None = None, resume: bool = False, progress: bool = True,
    ranks: Ranks = Ranks(),
) -> dict:
    """Runs a recipe and returns what it wrote to ``out/results.json``; each model goes to ``out/METHOD.pt``.

    Args:
        recipe: of ``load_recipe``.
        data: the recipe's data set.
        out: folder; made if missing.
        methods: of the recipe; all of them by default.
        seed: of initialisation, sample order, augmentation and attack.
        held_out: train without this part of the training set and measure on it instead of on the test set: what
            is chosen by such figures has not seen a test image.  0 measures on the test set.  It is taken before
            the part that a method's ``select`` chooses its model by: that is never what is measured on.
        budget: seconds of training, validation included, that each method's schedule is fitted to; not of
            certificates and attacks.
        resume: keep methods that are finished in ``out`` and continue one that was interrupted; without it
            everything is done anew.
        progress: whether to show progress bars.
        ranks: of ``linf_plugin.training.parallel.join``: the device, and the processes that train together.  The
            first of them certifies, attacks and writes, while the others wait.

    Raises:
        ValueError: a method is not in the recipe, ``out`` holds another run that cannot be resumed, or the budget
            is too short.
        FloatingPointError: a loss became NaN or infinite.
    """
    chosen = list(recipe.methods) if methods is None else methods
    unknown = [key for key in chosen if key not in recipe.methods]
    if unknown:
        known = ", ".join(recipe.methods)
        raise ValueError(f"methods: {unknown[0]!r} is not in recipe {recipe.name}, which has {known}")
    out, where = Path(out), ranks.device
    out.mkdir(parents=True, exist_ok=True)
    if held_out:
        data = hold_out(data, held_out)
    results = {
        "recipe": recipe.name, "description": recipe.description, "dataset": recipe.dataset, "eps": recipe.eps,
        "eps_values": list(recipe.eps_values), "seed": seed, "held_out": held_out, "attack": recipe.attack,
        "train_samples": len(data.x_train), "test_samples": len(data.x_test),
        "versions": _versions(),
        "device": device_name(where) + (f", {ranks.world} processes" if ranks.world > 1 else ""),
        "methods": ranks.agree(_finished(recipe, out, seed, held_out, budget) if resume else {}),
    }
    x_test, y_test = data.x_test.to(where), data.y_test.to(where)
    for key in chosen:
        if key in results["methods"]:
            if ranks.main:
                print(f"{METHODS[key].label}: already in {out / RESULTS}", file=sys.stderr)
            continue
        model, trained = train(
            recipe, key, data, out, seed=seed, held_out=held_out, budget=budget, ranks=ranks, resume=resume,
            progress=progress,
        )
        if ranks.main:
            # The rounding of cuDNN's fast convolutions has no bound, and no certificate covers them.
            with torch.backends.cudnn.flags(enabled=False):
                measured = evaluate(recipe, key, model, x_test, y_test, seed=seed, progress=progress)
            results["methods"][key] = {
                "label": METHODS[key].label, **measured,
                "parameters": sum(p.numel() for p in model.parameters()),
                "pairs_per_sample": model.pairs_per_sample(),
                **_report_of(trained), "device": results["device"], "select": recipe.methods[key].select,
                "checkpoint": f"{key}.pt",
                "identity": identity_of(recipe, key, seed, held_out, budget),
            }
            linf_plugin.save(out / f"{key}.pt", model.cpu(), {
                "dataset": recipe.dataset, "method": key, "recipe": recipe.name, "epsilon": recipe.eps,
                "seed": seed, "versions": results["versions"],
                **({} if held_out else {"results": measured}),  # of the test set only
            })
            write_json(out / RESULTS, results)
            (out / f"{key}.state.pt").unlink(missing_ok=True)
        results["methods"] = ranks.agree(results["methods"])  # the others wait here while the first one measures
    if ranks.main:
        write_json(out / RESULTS, results)
    return results

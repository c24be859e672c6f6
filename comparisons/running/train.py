"""Trains one method of a recipe."""

import statistics
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import nn

from linf_plugin import Net
from linf_plugin.datasets import Dataset, hold_out
from linf_plugin.models.materialised import materialise
from linf_plugin.training import Log, Trained, fit
from linf_plugin.training.optim import decay_distances
from linf_plugin.training.parallel import Ranks

from ..methods.parts import PARTS
from ..recipes.recipe import MethodRecipe
from ..results.schema import Training
from ..results.settings import plain_data
from .plan import Wanted
from .validation import validation


def train(
    wanted: Wanted, key: str, data: Dataset, out: Path, *, ranks: Ranks, resume: bool, progress: bool
) -> tuple[nn.Module, Trained]:
    """Trains a method and returns the net, without batch normalisation, and the report of the trainer.

    The state of the training is kept in ``out/KEY.state.pt`` while it runs.  Each epoch adds a line to
    ``out/KEY.log.jsonl`` and a point to ``out/tensorboard/KEY``.
    """
    settings, device, seed = wanted.recipe.methods[key], ranks.device, wanted.seed
    if settings.select:
        data = hold_out(data, settings.select)  # from here on its test set is the part that chooses the model
    torch.manual_seed(seed)
    model = untrained(settings, data).to(device)
    loss = PARTS["loss"].resolve(settings.loss, model.eval(), settings.schedule)
    if isinstance(loss, nn.Module):
        loss.to(device)
    optimizer = PARTS["optimizer"].resolve(settings.optimizer, model, loss)
    validate = None
    if settings.select:
        validate = validation(data.x_test.to(device), data.y_test.to(device), wanted.recipe.eps, wanted.norm)
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
            augment=PARTS["augmentation"].resolve(settings.augmentation),
            after_backward=partial(_before_step, settings) if settings.clip or settings.decay else None,
            average=settings.average,
            validate=validate,
            validate_every=settings.validate_every,
            budget=wanted.budget,
            state_path=state,
            resume=resume,
            identity=wanted.kept_with(key, state) if resume else wanted.training(key),
            log=log,
            ranks=ranks,
            description=settings.label,
            progress=progress,
        )
    ranks.start_alike(model)  # each process has normalised its own part of every batch
    return materialise(model) if isinstance(model, Net) else model, trained


def untrained(settings: MethodRecipe, data: Dataset) -> nn.Module:
    """Returns the net of a method with its first weights: a ``Net``, or the module of your own architecture."""
    table = settings.architecture
    about = {"shape": data.shape, "classes": data.classes, "mean": data.mean, "std": data.std}
    made = PARTS["architecture"].resolve(table, **about)
    model = Net(made) if isinstance(made, dict) else made
    if not hasattr(model, "input_shape"):
        model.input_shape = data.shape
    PARTS["initialisation"].resolve(settings.initialisation, model)
    return model


def _before_step(settings: MethodRecipe, model: nn.Module, step, lr: float) -> None:
    if settings.clip:
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    if settings.decay:
        decay_distances(model, lr * settings.decay)


def report_of(trained: Trained, select: float) -> Training:
    """Returns what results say about a training.  select: the part of the training set that chose the model."""
    history = trained.history
    seconds = sum(h["seconds"] for h in history)
    memory = [h["peak_memory_mib"] for h in history if h["peak_memory_mib"] is not None]
    return Training(
        epochs=len(history),
        seconds_per_epoch=seconds / len(history),
        seconds=seconds + sum(h.get("validation_seconds", 0.0) for h in history),
        images_per_second=statistics.median(h["images_per_second"] for h in history),
        peak_memory_mib=max(memory, default=None),
        loss=tuple(h["loss"] for h in history),
        schedule=plain_data(asdict(trained.schedule)),
        select=select,
        chosen=trained.chosen,
        validation=tuple({"epoch": h["epoch"], **h["validation"]} for h in history if "validation" in h),
    )

"""The training loop.  Its parts are arguments, and a run can be resumed from the last finished epoch."""

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .. import progress as progress_bars
from ..arguments import check_count, check_finite, check_model, check_number, check_samples, check_seed, kind
from . import budgets, selection, state
from .compiled import room_to_compile
from .iteration import Iteration, seeded
from .log import Log, peak_memory_mib
from .parallel import Ranks
from .schedule import Schedule

# The number of steps after which the losses are read; on a GPU, reading them waits for the GPU.
LOOK_EVERY = {"cpu": 1, "cuda": 50}


@dataclass(frozen=True)
class Trained:
    """The result of ``fit``.

    history: one dict for each epoch (``fit`` lists the keys).  schedule: the schedule that ran; it was fitted to the
    budget if there was one.  chosen: {"epoch", "weights": "last" or "average", and the figures of ``validate``} of the
    model that was kept, or None if none was chosen.
    """

    history: list[dict]
    schedule: Schedule
    chosen: dict | None


def fit(
    model: nn.Module,
    loss: Callable,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    x: Tensor,
    y: Tensor,
    *,
    batch_size: int,
    seed: int = 0,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    after_backward: Callable | None = None,
    average: float = 0.0,
    validate: Callable[[nn.Module], dict] | None = None,
    validate_every: int = 1,
    budget: float | None = None,
    state_path: str | Path | None = None,
    resume: bool = False,
    identity: dict | None = None,
    log: Log | None = None,
    ranks: Ranks = Ranks(),
    description: str = "train",
    progress: bool = True,
) -> Trained:
    """Trains ``model`` in place and leaves it in evaluation mode at p = ∞ with re-estimated means.

    With ``validate`` the model gets the best weights that ``validate`` saw.  Without it the model keeps the last
    weights or, with ``average``, gets the average at the end.

    Args:
        model: the model whose parameters ``optimizer`` holds.
        loss: ``loss(model, x, y, step) → scalar``; the state of an ``nn.Module`` is saved with that of the model.
        optimizer: each group's "lr" is its initial learning rate.
        schedule: p, ε and learning rate over time.
        x, y: images (N, C, H, W) or rows (N, F), and labels (N,), on the model's device.
        batch_size: samples of a step; the last batch of an epoch may be smaller.
        seed: the seed of the order of samples, of the augmentation and of the numbers that layers draw from torch's
            generators.  ``fit`` does not change the state of these generators outside.
        augment: ``augment(x, generator) → x``.
        after_backward: ``after_backward(model, step, lr)`` before each optimiser step (decay, clipping).
        average: decay per step, in [0, 1), of an exponential moving average of the weights; 0 keeps no average.  The
            average begins at the schedule's average_start.
        validate: ``validate(model) → {"certified": …, "clean": …}``, on images that are neither in x nor in a later
            report.  It gets a copy at p = ∞ in evaluation mode, with means of up to 10,000 images of x.  The copy does
            not affect training.  With ``average`` both the last and the average weights are measured.
        validate_every: epochs between validations; the last epoch always has one.
        budget: seconds for training with validation.  ``fit`` first times some iterations and a validation, then
            stretches or shrinks the schedule to the budget.  One line on stderr tells the result.
        state_path: the file that keeps the state after every epoch; None keeps no state.
        resume: continue from state_path if it exists.  The schedule stays as it was fitted then.
        identity: plain data that identify this run; the state of another run is refused.
        log: receives the dict of each epoch.
        ranks: the ranks of ``parallel.join`` if several processes call ``fit`` with the same arguments.  They do each
            step together.  Only the first one validates, writes and shows progress.
        description: the text of the progress bar.
        progress: whether to show the progress bar, on a terminal or in a notebook.

    Returns:
        ``Trained``.  Each dict of its history has epoch, steps (so far), loss, p, eps, lr, seconds,
        images_per_second, peak_memory_mib and time (of day).  After a validation it also has validation_seconds and
        validation: {"last": …, "average": …}.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument is out of its range or has a wrong shape; the state to resume from is damaged or
            belongs to another run; the budget is too short, and the message says how much is needed.
        FloatingPointError: the loss became NaN or infinite; the message says where.  The state of the last finished
            epoch stays.
        OSError: the state or the log could not be written.  The state of the last finished epoch stays.
    """
    began = time.perf_counter()
    _check(model, x, y, batch_size, seed, average, validate_every, budget, ranks)
    ranks.start_alike(model, *([loss] if isinstance(loss, nn.Module) else []))
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(average)) if average else None
    iterate = Iteration(
        model,
        loss,
        optimizer,
        schedule,
        x,
        y,
        batch_size,
        [group["lr"] for group in optimizer.param_groups],
        augment,
        after_backward,
        averaged,
        ranks,
    )
    parts = {"model": model, "optimizer": optimizer, "average": averaged, "loss": loss}
    parts = {name: part for name, part in parts.items() if hasattr(part, "state_dict")}
    weights = {"last": model} if averaged is None else {"last": model, "average": averaged.module}
    settings = (
        None
        if state_path is None
        else state.settings_of(
            iterate,
            identity,
            seed=seed,
            average=average,
            budget=budget,
            validate_every=validate_every,
            validated=validate is not None,
        )
    )
    lines, best = [], None  # one JSON text for each epoch, so that writing all of them again costs almost nothing
    if ranks.agree(resume and state_path is not None and Path(state_path).exists()):
        schedule, lines, best = state.load(state_path, settings, parts, schedule)
        if not ranks.alike(len(lines)):
            raise ValueError(f"{state_path} is not the same file for every process: all must use the same folder")
    elif budget is not None:

        def save() -> None:
            trial = Path(f"{state_path}.trial")
            state.write(trial, settings, parts, schedule, lines, best)
            trial.unlink()

        def measure() -> None:
            selection.measure(weights, validate, 0, None, x, seed)

        def last_means() -> None:
            selection.finish(copy.deepcopy(model), [x[: selection.BATCH]])

        each_epoch = {}  # actions besides the iterations, and how often they are done
        if state_path is not None:
            each_epoch[save] = 1.0
        if validate is not None:
            each_epoch[measure] = 1 / validate_every
        fitted = budgets.fit_schedule(
            iterate,
            parts,
            budget,
            seed,
            began=began,
            each_epoch=each_epoch,
            once={last_means: len(x) / selection.BATCH},
        )
        if ranks.main:
            progress_bars.say(f"{description}: {fitted}")
        schedule = fitted.schedule
    iterate.schedule, history = schedule, [json.loads(line) for line in lines]
    if x.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(x.device)
    if log is not None and ranks.main:
        log.start(history)

    steps = iterate.steps
    bar = progress_bars.bar(
        total=schedule.epochs * steps,
        initial=len(history) * steps,
        desc=description,
        disable=progress_bars.hidden(progress and ranks.main),
        unit="step",
        dynamic_ncols=True,
        mininterval=0.5,
    )
    with bar, room_to_compile(schedule, model, loss):
        for epoch in range(len(history), schedule.epochs):
            epoch_began = time.perf_counter()
            model.train()
            losses = torch.zeros(steps, device=x.device)
            with seeded(seed * 1_000_003 + epoch, ranks.rank) as generator:
                batches = iterate.batches(generator)
                for i, rows in enumerate(batches):
                    step = schedule.at(epoch + i / steps)
                    losses[i] = iterate(step, rows, generator)
                    if (i + 1) % LOOK_EVERY.get(x.device.type, 1) == 0 or i + 1 == steps:
                        _check_finite(losses[: i + 1], schedule, epoch, steps)
                    bar.update()
            _check_weights(model, epoch)
            seconds = time.perf_counter() - epoch_began
            shares = torch.tensor([len(rows) for rows in batches]) / len(x)
            record = {
                "epoch": epoch,
                "steps": (epoch + 1) * steps,
                "loss": (losses.cpu().double() @ shares.double()).item(),
                "p": "inf" if step.p == math.inf else step.p,
                "eps": step.eps,
                "lr": iterate.lr[0] * step.lr_factor,
                "seconds": seconds,
                "images_per_second": len(x) / seconds,
                "peak_memory_mib": peak_memory_mib(x.device),
                "time": time.time(),
            }
            due = (epoch + 1) % validate_every == 0 or epoch + 1 == schedule.epochs
            if validate is not None and due and ranks.main:
                validation_began = time.perf_counter()
                # before average_start the averaged model still holds the first weights
                candidates = weights if averaged is None or averaged.n_averaged > 0 else {"last": model}
                record["validation"], best = selection.measure(candidates, validate, epoch, best, x, seed)
                record["validation_seconds"] = time.perf_counter() - validation_began
            record = ranks.agree(record)  # the other ranks wait here while the first one validates
            history.append(record)
            lines.append(json.dumps(record))
            if state_path is not None and ranks.main:
                state.write(state_path, settings, parts, schedule, lines, best)
            if log is not None and ranks.main:
                log.add(record)
            bar.set_postfix(_postfix(history))
    best = ranks.agree(best)
    if best is not None:
        model.load_state_dict(best.state)
    elif averaged is not None and averaged.n_averaged > 0:
        model.load_state_dict(averaged.module.state_dict())
    selection.finish(model, selection.batches(x), ranks)
    chosen = None if best is None else {"epoch": best.epoch, "weights": best.weights, **best.figures}
    return Trained(history, schedule, chosen)


def _check(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    batch_size: int,
    seed: int,
    average: float,
    validate_every: int,
    budget: float | None,
    ranks: Ranks,
) -> None:
    check_model(model, evaluation=False)
    check_samples(x, model)
    if not isinstance(y, Tensor):
        raise TypeError(f"y must be an int64 tensor, got {kind(y)}")
    if y.dim() != 1 or len(x) != len(y) or len(x) == 0:
        raise ValueError(f"x and y must have the same positive length, got {tuple(x.shape)} and {tuple(y.shape)}")
    if y.dtype != torch.int64:
        raise TypeError(f"y must be an int64 tensor, got {kind(y)}")
    if y.device != x.device:
        raise ValueError(f"y is on {y.device} but x is on {x.device}")
    if y.min() < 0:
        raise ValueError(f"y must not be negative, got {y.min()}")
    check_finite(x=x)
    check_count("batch_size", batch_size)
    if batch_size < ranks.world:
        raise ValueError(f"batch_size must be at least the number of processes, {ranks.world}, got {batch_size}")
    check_seed(seed)
    check_number("average", average)
    if not 0 <= average < 1:
        raise ValueError(f"average must lie in [0, 1), got {average}")
    check_count("validate_every", validate_every)
    if budget is not None:
        check_number("budget", budget)
        if not 0 < budget < math.inf:
            raise ValueError(f"budget must be a positive number of seconds, got {budget}")


def _check_finite(losses: Tensor, schedule: Schedule, epoch: int, steps: int) -> None:
    """Raises FloatingPointError if a loss of an epoch is NaN or infinite.  The message names the first such loss."""
    if losses.isfinite().all():
        return
    first = int((~losses.isfinite()).nonzero()[0])
    p = schedule.at(epoch + first / steps).p
    raise FloatingPointError(f"loss is {losses[first].item()} in epoch {epoch}, step {first} (p={p:g})")


def _check_weights(model: nn.Module, epoch: int) -> None:
    """Raises FloatingPointError if the last step of an epoch made a weight NaN or infinite, although its loss was
    finite."""
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise FloatingPointError(f"{name} is no longer finite after epoch {epoch}")


def _postfix(history: list[dict]) -> dict[str, str]:
    """Returns what the progress bar shows: figures of the last epoch and of the last validation."""
    last = history[-1]
    shown = {"loss": f"{last['loss']:.4f}", "p": f"{float(last['p']):g}", "eps": f"{last['eps']:.3g}"}
    measured = next((r["validation"] for r in reversed(history) if "validation" in r), {})
    for weights, figures in measured.items():
        mark = "~" if weights == "average" else ""
        shown |= {mark + name: f"{value:.4f}" for name, value in figures.items()}
    return shown

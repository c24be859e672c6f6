"""The training loop: flat, its parts passed in, resumable from the last finished epoch."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import checkpoint
from ..layers import MeanShift, reestimate_means, set_p
from .schedule import Schedule

REESTIMATE_BATCH = 1024  # large, because deeper layers see batch means of the layers before them


@contextlib.contextmanager
def _random(seed: int, epoch: int) -> Iterator[torch.Generator]:
    """The random numbers of an epoch, whether or not the run was interrupted before it.

    While open, torch's own generators, which layers draw from, are seeded too, with another number.
    """
    number = seed * 1_000_003 + epoch
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(-1 - number)
        yield torch.Generator().manual_seed(number)


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
    state_path: str | Path | None = None,
    resume: bool = False,
    identity: dict | None = None,
    description: str = "train",
    progress: bool = True,
) -> list[dict]:
    """Trains ``model`` in place and leaves it in evaluation mode at p = ∞ with re-estimated means.

    Args:
        model: its parameters are what ``optimizer`` holds.
        loss: ``loss(model, x, y, step) → scalar``; an ``nn.Module`` has its state saved with the model's.
        optimizer: each group's "lr" is its initial learning rate.
        schedule: p, ε and learning rate over time.
        x, y: images (N, C, H, W) and labels (N,), on the model's device.
        batch_size: samples a step; the last batch of an epoch may be smaller.
        seed: of the order of samples, of the augmentation, and of what layers draw from torch's generators, whose
            state outside is left alone.
        augment: ``augment(x, generator) → x``.
        after_backward: ``after_backward(model, step, lr)`` before each optimiser step (decay, clipping).
        state_path: where the state is kept after every epoch; None keeps none.
        resume: continue from state_path if it exists.
        identity: plain data that names this run; a state of another run is refused.
        description: of the progress bar.
        progress: whether to show it.

    Returns:
        one dict an epoch: epoch, loss, seconds, p, eps.

    Raises:
        ValueError: sizes do not fit, or the state to resume from belongs to another run.
        FloatingPointError: the loss became NaN or infinite; the message says where.
    """
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(f"x and y must have the same positive length, got {len(x)} and {len(y)}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    parts = {"model": model, "optimizer": optimizer}
    if isinstance(loss, nn.Module):
        parts["loss"] = loss
    initial_lr = [group["lr"] for group in optimizer.param_groups]
    history: list[dict] = []
    if resume and state_path is not None and Path(state_path).exists():
        state = checkpoint.read(state_path)
        if state["identity"] != identity:
            raise ValueError(f"{state_path} belongs to another run: {state['identity']}, not {identity}")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        history = state["history"]

    steps = math.ceil(len(x) / batch_size)
    bar = tqdm(
        total=schedule.epochs * steps, initial=len(history) * steps, desc=description, disable=not progress,
        unit="step", dynamic_ncols=True, mininterval=0.5,
    )
    with bar:
        for epoch in range(len(history), schedule.epochs):
            began, total = time.perf_counter(), 0.0
            model.train()
            with _random(seed, epoch) as generator:
                for i, rows in enumerate(torch.randperm(len(x), generator=generator).split(batch_size)):
                    step = schedule.at(epoch + i / steps)
                    set_p(model, step.p)
                    for group, lr in zip(optimizer.param_groups, initial_lr):
                        group["lr"] = lr * step.lr_factor
                    rows = rows.to(x.device)
                    batch = x[rows] if augment is None else augment(x[rows], generator)
                    value = loss(model, batch, y[rows], step)
                    if not math.isfinite(value.item()):
                        raise FloatingPointError(
                            f"loss is {value.item()} in epoch {epoch}, step {i} (p={step.p:g})"
                        )
                    optimizer.zero_grad()
                    value.backward()
                    if after_backward is not None:
                        after_backward(model, step, initial_lr[0] * step.lr_factor)
                    optimizer.step()
                    total += value.item() * len(rows)
                    bar.update()
            history.append({
                "epoch": epoch, "loss": total / len(x), "seconds": time.perf_counter() - began,
                "p": "inf" if step.p == math.inf else step.p, "eps": step.eps,
            })
            bar.set_postfix(loss=f"{total / len(x):.4f}", p=f"{step.p:g}", eps=f"{step.eps:.3g}")
            if state_path is not None:
                state = {name: part.state_dict() for name, part in parts.items()}
                checkpoint.write(state_path, {**state, "history": history, "identity": identity})
    set_p(model, math.inf)
    if any(isinstance(m, MeanShift) for m in model.modules()):
        reestimate_means(model, x.split(REESTIMATE_BATCH))
    model.eval()
    return history

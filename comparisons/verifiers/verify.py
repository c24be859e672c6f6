"""Asks complete verifiers about samples, one verifier after the other.

found = verify(["exact", "marabou"], model, x, labels, Ball(0.1, low=0.0, high=1.0), undecided)
print(found.summary())
"""

import contextlib
import copy
import math
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from linf_plugin.arguments import (
    check_count,
    check_labels,
    check_logits,
    check_model,
    check_pixels,
    check_positive,
    check_samples,
    check_weights,
    kind,
)
from linf_plugin.norms import SYMBOLS, Ball
from onnx_export.verifiers.child import Child, Ended

from .complete import Verifier, check_installed, verifier_of
from .kept import Kept, identity
from .points import confirmed
from .question import Asked
from .verdict import FALSIFIED, UNKNOWN, Verdict, Verification

MEMORY = 4 << 30  # bytes
BATCH = 256  # samples that are classified at a time


@torch.no_grad()
def verify(
    names: Iterable[str],
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    ball: Ball,
    undecided: Tensor | None = None,
    *,
    time_limit: float = 60.0,
    memory: int = MEMORY,
    kept: Path | None = None,
    strict: bool = True,
    description: str = "",
    progress: bool = True,
) -> Verification:
    """Asks each verifier about the samples that the verifiers before it left unknown.

    A question is: does an input in the ball have a logit of another class that is at least the label's?  Each
    verifier runs in a process of its own, which ends at the limits of time and memory.  A point that a verifier finds
    counts only if the model itself, in float32, classifies it otherwise.

    Args:
        names: keys of ``COMPLETE``, in the order in which they are asked.
        model: float32, in evaluation mode; maps (N, *) to (N, classes).
        x: (N, *) float32 in the range of the ball, on the model's device.
        labels: (N,) integers.
        ball: in ℓ∞.
        undecided: (N,) bool, the samples to ask about; by default all.  Misclassified samples are left out.
        time_limit: seconds for each question.
        memory: bytes that the process of a verifier may have.
        kept: a file for verdicts.  A call with the same arguments goes on where an earlier one was interrupted.
        strict: whether a verifier that does not take the model is an error.  Otherwise it is left out, and
            ``Verification.refused`` says why.
        description: what stands before the progress bar.
        progress: whether there is a progress bar on a terminal.

    Raises:
        ValueError: a name is unknown; the ball is not in ℓ∞; another argument is not as described.
        TypeError: the model or x is not float32; or, with strict, a verifier does not take the model.
        ImportError, FileNotFoundError: a verifier is not installed; the message says how to get it.
    """
    rows = [verifier_of(name) for name in dict.fromkeys([names] if isinstance(names, str) else names)]
    labels = _checked(model, x, labels, ball, time_limit, memory)
    check_installed(row.name for row in rows)
    asked = _correct(model, x, labels) & _checked_mask(undecided, x)
    remaining = asked.nonzero().squeeze(1).tolist()
    verdicts: dict[str, dict[int, Verdict]] = {row.name: {} for row in rows}
    refused: dict[str, str] = {}
    verification = Verification(ball, tuple(verdicts), len(x), float(time_limit), verdicts, refused)
    if not remaining:
        return verification
    memo = Kept(kept, identity(model, x, labels, ball, time_limit, memory), tuple(x.shape[1:]))
    with contextlib.ExitStack() as stack:
        children = {row.name: stack.enter_context(Child(row.load().PROGRAM, memory)) for row in rows}
        prepared = {}
        for row in rows:  # before the first question, so that it fails early
            try:
                prepared[row.name] = _prepared(row, model, x, children[row.name])
            except TypeError as error:
                if strict:
                    raise
                refused[row.name] = str(error)
        for row in rows:
            if row.name in refused:
                continue
            found = verdicts[row.name]
            options = {"unit": "image", "leave": False, "dynamic_ncols": True, "disable": None if progress else True}
            for i in tqdm(remaining, desc=f"{description} {row.label}".strip(), **options):
                found[i] = memo.get(row.name, i)
                if found[i] is None:
                    question = Asked(x[i : i + 1].cpu(), int(labels[i]), ball, float(time_limit))
                    found[i] = _verdict(row, model, x[i], question, prepared[row.name], children[row.name])
                    memo.add(row.name, i, found[i])
            children[row.name].close()
            remaining = [i for i in remaining if found[i].status == UNKNOWN]
    return verification


def _prepared(row: Verifier, model: nn.Module, x: Tensor, child: Child) -> object:
    plain = copy.deepcopy(model).cpu().requires_grad_(False)
    try:
        return row.load().prepared(plain, x[:1].cpu(), child)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{row.label} does not take this model: {error}") from error


def _verdict(row: Verifier, model: nn.Module, x: Tensor, question: Asked, prepared: object, child: Child) -> Verdict:
    """Asks about one sample.  A point that was found counts only if the model itself classifies it otherwise."""
    module, began = row.load(), time.perf_counter()
    try:
        found = child.ask(module.question(prepared, question), question.seconds + row.spare)
    except Ended as ended:
        return Verdict(UNKNOWN, time.perf_counter() - began, ended.reason, ended.detail)
    if row.alone:
        child.close()
    answer, seconds = module.answer(found, question), time.perf_counter() - began
    if answer.status != FALSIFIED:
        return Verdict(answer.status, seconds, answer.reason, answer.detail)
    point = confirmed(model, x, question.label, question.ball, answer.point)
    if point is None:
        return Verdict(UNKNOWN, seconds, "unconfirmed")
    return Verdict(FALSIFIED, seconds, point=point)


def _correct(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    found = [model(part.clone()).argmax(1) for part in x.split(BATCH)] if len(x) else [labels]
    return torch.cat(found) == labels


# Arguments.


def _checked(model: nn.Module, x: Tensor, labels: Tensor, ball: Ball, time_limit: float, memory: int) -> Tensor:
    """Returns the labels as int64.  Raises as ``verify``."""
    check_model(model)
    check_samples(x, model)
    check_weights(model)
    for name, a in (("x", x), *model.named_parameters()):
        if a.dtype != torch.float32:
            raise TypeError(f"{name} is {a.dtype}: points are confirmed in float32")
    if ball.norm != math.inf:
        raise ValueError(f"complete verifiers take {SYMBOLS[math.inf]} balls, and norm is {SYMBOLS[ball.norm]}")
    check_pixels(x, ball.low, ball.high)
    check_positive("time_limit", time_limit)
    check_count("memory", memory)
    classes = check_logits(model(x[:1].clone()), 1) if len(x) else None
    return check_labels(labels, x, classes)


def _checked_mask(undecided: Tensor | None, x: Tensor) -> Tensor:
    if undecided is None:
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    if not isinstance(undecided, Tensor) or undecided.dtype != torch.bool:
        raise TypeError(f"undecided must be a tensor of bools, got {kind(undecided)}")
    if undecided.shape != x.shape[:1]:
        raise ValueError(f"undecided must have shape ({len(x)},), got {tuple(undecided.shape)}")
    return undecided.to(x.device)

"""Certificates for a batch: lower bounds of margins, and the cascade that tries certificates in order of cost."""

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import kind
from ..inference import outside_inference
from ..norms import SYMBOLS, Ball, check_norm
from ..progress import bar as progress_bar
from .problem import Problem, check_batch_size
from .result import Certified, Tally
from .table import CERTIFICATES, Certificate, certificate_of, check_norm_of, in_order, theorems


def _bar(progress: bool) -> Any:
    return progress_bar(disable=not progress, leave=False, unit="image", dynamic_ncols=True)


@outside_inference
@torch.no_grad()
def margin_bound(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    method: str,
    *,
    low: float = 0.0,
    high: float = 1.0,
    batch_size: int | None = None,
    progress: bool = False,
    sound: bool = True,
) -> Tensor:
    """Returns a lower bound of min_{j≠y} (z_y − z_j) over all inputs within eps of x, in float64.

    A positive bound certifies the sample.  With ``sound`` it does so for the float32 program: the program's largest
    logit is the label's for every float32 input in the ball (docs/math.md has the assumptions).  Without ``sound`` the
    bound is about the exact function of the weights, up to the rounding of the bound's own computation in float64.

    Args:
        model: in evaluation mode; maps (N, *) to (N, classes).  With ``sound`` a float32 net whose program has rules
            (``float32.reach.check_program``).
        x: (N, *) float32, inputs in [low, high].
        labels: (N,) integers.
        eps: radius of the ball in the norm of the certificate, in units of x, ≥ 0.
        method: a name in ``CERTIFICATES``.  "lipschitz" and "lipschitz-l2" are z_y − z_j − K_yj·eps with Lipschitz
            bounds K of differences (``pairs.pair_bounds``) in ℓ∞ and in ℓ2.  The others are computed by auto_LiRPA.
        low, high: the pixel range; perturbed inputs stay inside it.
        batch_size: how many samples are bounded at a time.  The default is 256, and 32 for linear bounds, because
            these keep coefficients of many outputs for each sample.
        progress: whether to show a progress bar.
        sound: whether to cover rounding.

    Returns:
        (N,) float64.  It is −∞ where an activation may overflow, or where an intermediate bound is far looser than an
        interval bound.

    Raises:
        ValueError, TypeError: an argument is out of its range, or of a wrong shape or type; the message names it.
            The model is in training mode.  For auto_LiRPA's methods: an ``nn.Conv2d`` has its padding given by name,
            or pads with other values than zeros.  For Lipschitz bounds: a layer has no known Lipschitz bound.
        TypeError, RuntimeError: with ``sound``, as ``float32.reach.check_program``.  For auto_LiRPA's methods with
            ``sound``: this version of auto_LiRPA has not been searched for wrong bounds.
        NotImplementedError, CrossedBounds: as ``compute_bounds``.
    """
    row = certificate_of(method)
    problem = Problem(model, x, labels, Ball(eps, row.norm, low, high), sound)
    size = check_batch_size(batch_size)
    with _bar(progress) as bar:
        parts = [bound for _, bound in _bounds(problem, row, torch.arange(len(x), device=x.device), size, bar)]
    return torch.cat([x.new_zeros(0, dtype=torch.float64), *parts])


def _bounds(
    problem: Problem, row: Certificate, rows: Tensor, size: int | None, bar: Any
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (a batch of the rows, lower bounds of their margins in float64)."""
    bar.set_description(f"{row.name} ε={problem.ball.eps:g}", refresh=False)
    bar.reset(total=len(rows))
    if len(rows) == 0:
        return
    bound = row.bound(problem)
    for part in rows.split(size or row.batch_size):
        yield part, bound(problem.x[part], problem.labels[part])
        bar.update(len(part))


@outside_inference
@torch.no_grad()
def certify(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    methods: Iterable[str] | None = None,
    *,
    norm: float | str = math.inf,
    skip: Tensor | None = None,
    low: float = 0.0,
    high: float = 1.0,
    batch_size: int | None = None,
    progress: bool = False,
    sound: bool = True,
) -> Certified:
    """Certifies each sample with the cheapest certificate that can certify it.

    A certified sample is classified correctly, and the prediction is the same everywhere within eps.  If one of
    ``methods`` may fail, this holds with a probability; see ``Certified.failure``.

    The certificates run in order of cost.  Each is tried on the samples that the ones before it left uncertified.
    Misclassified samples are not bounded.  The Lipschitz bound also leaves out samples that the float32 logits at x
    already rule out.  No single certificate is best: on a distance net a linear bound can be looser than an interval
    bound.

    Args:
        model: in evaluation mode.
        methods: names in ``CERTIFICATES``; by default all of this norm that are theorems and can bound such a net.
        norm: of the balls: ``math.inf``, 2 or 1, or a key of ``norms.NORMS``.
        skip: (N,) bool, samples that are not bounded, for example because an attack broke them.
        others: as ``margin_bound``.

    Raises:
        ValueError, TypeError, RuntimeError: as ``margin_bound``; also if a certificate is of another norm.
    """
    ball = Ball(eps, check_norm(norm), low, high)
    problem, rows, undecided = _prepare(model, x, labels, ball, methods, skip, sound)
    size = check_batch_size(batch_size)
    bound = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    by, tallies = torch.full((len(x),), -1, device=x.device), []
    with _bar(progress) as bar:
        for k, row in enumerate(rows):
            began = time.perf_counter()
            tried = row.hopeful(problem, undecided).nonzero().squeeze(1)
            for part, found in _bounds(problem, row, tried, size, bar):
                bound[part] = torch.maximum(bound[part], found)
                by[part[found > 0]] = k
                undecided[part[found > 0]] = False
                if progress:
                    bar.set_postfix(undecided=int(undecided.sum()), refresh=False)
            tallies.append(Tally(len(tried), int((by == k).sum()), time.perf_counter() - began))
    skipped = torch.zeros_like(undecided) if skip is None else skip.clone()
    names = tuple(row.name for row in rows)
    return Certified(ball, names, problem.correct, skipped, bound, by, tuple(tallies))


@outside_inference
@torch.no_grad()
def certify_each(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    methods: Iterable[str] | None = None,
    *,
    norm: float | str = math.inf,
    low: float = 0.0,
    high: float = 1.0,
    batch_size: int | None = None,
    progress: bool = False,
    sound: bool = True,
    seconds: dict[str, float] | None = None,
) -> dict[str, Tensor]:
    """Returns which samples each certificate certifies by itself, to compare the certificates.

    ``certify`` finds the same "best" with less work.  The arguments and the errors raised are those of ``certify``,
    except for ``seconds``: a dictionary to which the seconds of each certificate are added, by its name.

    Returns:
        (N,) bool for each certificate, in order of cost, and for "best", which is true where a theorem among them is
        true: a certificate that may fail does not count there.
    """
    ball = Ball(eps, check_norm(norm), low, high)
    problem, rows, correct = _prepare(model, x, labels, ball, methods, None, sound)
    size = check_batch_size(batch_size)
    certified = {row.name: torch.zeros_like(correct) for row in rows}
    with _bar(progress) as bar:
        for row in rows:
            began = time.perf_counter()
            tried = row.hopeful(problem, correct).nonzero().squeeze(1)
            for part, found in _bounds(problem, row, tried, size, bar):
                certified[row.name][part] = found > 0
            if seconds is not None:
                certified[row.name].any().item()  # waits for the device
                seconds[row.name] = seconds.get(row.name, 0.0) + time.perf_counter() - began
    proved = [certified[row.name] for row in rows if row.failure == 0]
    return {**certified, "best": torch.stack([torch.zeros_like(correct), *proved]).any(0)}


def _prepare(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    ball: Ball,
    methods: Iterable[str] | None,
    skip: Tensor | None,
    sound: bool,
    before: Problem | None = None,
) -> tuple[Problem, list[Certificate], Tensor]:
    """Returns the problem, the certificates in order of cost, and (N,) bool: the samples to bound."""
    names = None if methods is None else _check_methods(methods, ball)
    problem = Problem(model, x, labels, ball, sound, before)
    if names is None:
        names = applicable(problem)
        if not names:
            raise ValueError(f"no certificate for {SYMBOLS[ball.norm]} balls can bound this net: give another norm")
    else:
        for name in names:  # before the samples are classified, so that it fails early
            CERTIFICATES[name].knows(problem)
    return problem, [CERTIFICATES[name] for name in names], problem.correct & ~_check_skip(skip, x)


def applicable(problem: Problem) -> tuple[str, ...]:
    """Returns the names of the theorems about balls of this norm that can bound the net, in order of cost."""
    found = []
    for name in theorems(problem.ball.norm):
        try:
            CERTIFICATES[name].knows(problem)
        except (TypeError, RuntimeError):
            continue
        found.append(name)
    return tuple(found)


# Checks of arguments.  Every message names the argument.


def _check_methods(methods: Iterable[str], ball: Ball) -> tuple[str, ...]:
    """Returns the names in order of cost, each once.  Raises TypeError or ValueError."""
    if not isinstance(methods, Iterable):
        raise TypeError(f"methods must be names among {', '.join(CERTIFICATES)}, got {methods!r}")
    names = [methods] if isinstance(methods, str) else list(methods)
    for name in names:
        certificate_of(name, "each of methods")
        check_norm_of(name, ball.norm)
    return in_order(names)


def _check_skip(skip: Tensor | None, x: Tensor) -> Tensor:
    if skip is None:
        return torch.zeros(len(x), dtype=torch.bool, device=x.device)
    if not isinstance(skip, Tensor) or skip.dtype != torch.bool:
        raise TypeError(f"skip must be a tensor of bools, got {kind(skip)}")
    if skip.shape != x.shape[:1]:
        raise ValueError(f"skip must have shape ({len(x)},), got {tuple(skip.shape)}")
    if skip.device != x.device:
        raise ValueError(f"skip is on {skip.device} but x is on {x.device}")
    return skip

"""Certificates for a batch: lower bounds of margins, and the cascade that tries methods in order of cost."""

import copy
import functools
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..arguments import (
    check_count,
    check_labels,
    check_logits,
    check_model,
    check_not_negative,
    check_pixels,
    check_range,
    check_samples,
    check_weights,
    kind,
)
from ..float32 import allowance, reach
from ..layers.lipschitz import lipschitz_bound
from . import lipschitz
from .margin import margin

# name → auto_LiRPA's method; in order of cost
LIRPA_METHODS = {"ibp": "IBP", "crown-ibp": "CROWN-IBP", "crown": "CROWN", "alpha-crown": "CROWN-Optimized"}
CERTIFICATES = ("lipschitz", *LIRPA_METHODS)

BATCH_SIZES = {"lipschitz": 256, "ibp": 256}
LINEAR_BATCH_SIZE = 32  # of all others: for each sample they keep coefficients of many outputs


def specification(labels: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """auto_LiRPA's C for margins: rows e_y − e_j for every j ≠ y, (N,) → (N, classes − 1, classes).

    Raises:
        TypeError, ValueError: labels are not integers in [0, classes), or there are fewer than two classes.
    """
    check_count("classes", classes, 2)
    labels = check_labels(labels, labels, classes).reshape(-1)
    eye = torch.eye(classes, dtype=dtype, device=labels.device)
    rows = eye[labels].unsqueeze(1) - eye.unsqueeze(0)
    others = torch.arange(classes, device=labels.device) != labels.unsqueeze(1)
    return rows[others].view(len(labels), classes - 1, classes)


class _Problem:
    """A net, samples and a ball around each; what the methods share is made once."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        labels: Tensor,
        eps: float,
        low: float,
        high: float,
        batch_size: int | None,
        sound: bool,
    ):
        _check_arguments(model, x, eps, low, high, batch_size)
        if sound:
            reach.check_program(model, x)
        check_weights(model)
        self.model, self.x, self.eps, self.low, self.high = model, x, float(eps), low, high
        self.batch_size, self.sound = batch_size and int(batch_size), sound
        self.exact = copy.deepcopy(model).double().requires_grad_(False)
        self.classes = _classes(self.exact, x)
        self.labels = check_labels(labels, x, self.classes)
        self.bounded = None

    @functools.cached_property
    def logits(self) -> Tensor:
        """(N, classes), of the model itself."""
        parts = [self.model(part) for part in self.x.split(BATCH_SIZES["lipschitz"])] if len(self.x) else []
        return torch.cat([self.x.new_zeros(0, self.classes), *parts])

    @functools.cached_property
    def correct(self) -> Tensor:
        """(N,) bool."""
        return self.logits.argmax(1) == self.labels

    def hopeful(self, method: str, among: Tensor) -> Tensor:
        """The rows of ``among`` (N,) bool that a method may certify."""
        if method == "lipschitz" and self.sound:  # sound_margin is never above this
            lost = 2 * lipschitz_bound(self.exact) * self.eps
            among = among & (margin(self.logits, self.labels) > lost)
        return among.nonzero().squeeze(1)

    def bounds(self, method: str, rows: Tensor, bar: tqdm) -> Iterator[tuple[Tensor, Tensor]]:
        """(some of the rows, lower bounds of their margins in float64), a batch at a time."""
        bar.set_description(f"{method} ε={self.eps:g}", refresh=False)
        bar.reset(total=len(rows))
        bound = self._lipschitz if method == "lipschitz" else functools.partial(self._lirpa, LIRPA_METHODS[method])
        size = self.batch_size or BATCH_SIZES.get(method, LINEAR_BATCH_SIZE)
        for part in rows.split(size) if len(rows) else ():
            yield part, bound(self.x[part], self.labels[part])
            bar.update(len(part))

    def _lipschitz(self, x: Tensor, labels: Tensor) -> Tensor:
        if self.sound:
            return lipschitz.sound_margin(self.exact, x, labels, self.eps, self.low, self.high)
        return margin(self.exact(x.double()), labels) - 2 * lipschitz_bound(self.exact) * self.eps

    @functools.cached_property
    def _noisy(self):
        from ..bounds import rounded
        from ..bounds.readable import readable

        rounded.register()
        return rounded.Noisy(readable(self.exact)).eval()

    def _lirpa(self, lirpa_method: str, x: Tensor, labels: Tensor) -> Tensor:
        from ..bounds import versions
        from ..bounds.compute import compute_bounds
        from ..bounds.guard import check_padding, default_options
        from ..bounds.readable import readable
        from ..bounds.refused import check_version

        from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm  # isort: skip

        C = specification(labels, self.classes, torch.float64)
        lower, upper = allowance.box(x, self.eps, self.low, self.high)
        noises = self._noisy.noises(lower, upper) if self.sound else None
        amounts = noises.between if self.sound else ()
        with versions.float64_by_default():
            if self.bounded is None:
                check_version(self.sound)
                check_padding(self.exact)
                net = self._noisy if self.sound else readable(self.exact)
                first = (x[:1].double(), *(a[:1] for a in amounts))
                self.bounded = BoundedModule(
                    net, first, bound_opts=default_options(self.exact), device=x.device, verbose=False
                )
                self.bounded.eval()  # in training mode it asks for gradients of parameters
            ball = BoundedTensor(x.double(), PerturbationLpNorm(norm=math.inf, x_L=lower, x_U=upper))
            bound, _ = compute_bounds(
                self.bounded, (ball, *amounts), C, lirpa_method, bound_upper=False, output_only=True
            )
        if self.sound:
            bound = bound - torch.where(C == 0, 0, noises.slack(self.bounded).unsqueeze(1)).sum(2)
        # An infinite or unknown number certifies nothing.
        return torch.where(bound < math.inf, bound, -math.inf).amin(1)


def _bar(progress: bool) -> tqdm:
    return tqdm(disable=not progress, leave=False, unit="image", dynamic_ncols=True)


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
    """A lower bound of min_{j≠y} (z_y − z_j) over all inputs within eps of x, in float64.

    Positive means certified.  With ``sound`` that is so for the float32 program: its largest logit is the
    label's for every float32 input in the ball (docs/math.md has the assumptions).  Without, the bound is about
    the exact function of the weights, up to the rounding of its computation in float64.

    Args:
        model: in evaluation mode; maps (N, C, H, W) to (N, classes).  With ``sound`` a sequential float32 net of
            layers in ``float32.reach.RULES``.
        x: (N, C, H, W) pixels in [low, high].
        labels: (N,) integers.
        eps: ℓ∞ radius in units of x, ≥ 0.
        method: of ``CERTIFICATES``: "lipschitz", which is z_y − z_j − 2·L·eps with the net's Lipschitz bound L, or
            one of auto_LiRPA's.
        low, high: the pixel range; perturbed inputs stay inside it.
        batch_size: samples bounded at a time; by default 256, and 32 for linear bounds, which keep coefficients
            of many outputs for each.
        progress: whether to show a progress bar.
        sound: whether to cover rounding.

    Returns:
        (N,) float64; −∞ where an activation may overflow, or an intermediate bound is far looser than an
        interval bound.

    Raises:
        ValueError, TypeError: an argument is out of its range, or of a wrong shape or type; the message names it.
            The model is in training mode.  For auto_LiRPA's methods, an ``nn.Conv2d`` is padded by name or with
            other than zeros.  For "lipschitz", a layer has no known Lipschitz bound.
        TypeError, RuntimeError: with ``sound``, as ``float32.reach.check_program``; for auto_LiRPA's methods, its version
            has not been searched for wrong bounds.
        NotImplementedError, CrossedBounds: as ``compute_bounds``.
    """
    if method not in CERTIFICATES:
        raise ValueError(f"method must be one of {', '.join(CERTIFICATES)}, got {method!r}")
    problem = _Problem(model, x, labels, eps, low, high, batch_size, sound)
    with _bar(progress) as bar:
        parts = [bound for _, bound in problem.bounds(method, torch.arange(len(x), device=x.device), bar)]
    return torch.cat([x.new_zeros(0, dtype=torch.float64), *parts])


class Tally(NamedTuple):
    """What one method did: samples that it was tried on, those that it certified, and the seconds it took."""

    tried: int
    certified: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Certificate:
    """What ``certify`` found.

    Attributes:
        eps: ℓ∞ radius, in units of the net's input.
        methods: those that were asked for, in the order in which they ran.
        correct: (N,) bool, what the model classifies correctly.
        skipped: (N,) bool, what was left out on request.
        bound: (N,) float64, the largest lower bound of the margin that was computed; −∞ where none was.
        method: (N,) int64, the index in ``methods`` of the one that certified the sample; −1 where none did.
        tallies: of each method.
    """

    eps: float
    methods: tuple[str, ...]
    correct: Tensor
    skipped: Tensor
    bound: Tensor
    method: Tensor
    tallies: tuple[Tally, ...]

    @property
    def certified(self) -> Tensor:
        """(N,) bool: correctly classified, with the same prediction everywhere within eps."""
        return self.method >= 0

    def certified_by(self, method: str) -> Tensor:
        """(N,) bool: the samples that this method certified, and no cheaper one.

        Raises:
            ValueError: the method was not asked for.
        """
        if method not in self.methods:
            raise ValueError(f"method must be one of {', '.join(self.methods)}, got {method!r}")
        return self.method == self.methods.index(method)

    def summary(self) -> str:
        """Some lines to read: how many samples are certified, and what each method did."""
        total, certified = len(self.method), int(self.certified.sum())
        share = f" ({100 * certified / total:.2f} %)" if total else ""
        undecided = int((self.correct & ~self.skipped & ~self.certified).sum())
        lines = [
            f"ε = {self.eps:g}: {certified} of {total} certified{share}; {int((~self.correct).sum())} misclassified, "
            f"{int((self.correct & self.skipped).sum())} skipped, {undecided} undecided",
            f"{'method':12} {'tried':>8} {'certified':>10} {'seconds':>9}",
            *(f"{m:12} {t.tried:8} {t.certified:10} {t.seconds:9.2f}" for m, t in zip(self.methods, self.tallies)),
        ]
        return "\n".join(lines)


@torch.no_grad()
def certify(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    methods: Iterable[str] | None = None,
    *,
    skip: Tensor | None = None,
    low: float = 0.0,
    high: float = 1.0,
    batch_size: int | None = None,
    progress: bool = False,
    sound: bool = True,
) -> Certificate:
    """Certifies each sample by the cheapest method that can: its prediction is right, and the same everywhere
    within eps.

    The methods run in order of cost, each on what the ones before have left.  Misclassified samples are not
    bounded, nor by the Lipschitz bound what even the float32 logits at x rule out.  No single method is best: on a
    distance net a linear bound can be looser than an interval bound.

    Args:
        model: in evaluation mode.
        methods: of ``CERTIFICATES``; by default all of them, but "lipschitz" only where the net's Lipschitz bound is
            known.
        skip: (N,) bool, samples not to be bounded, such as those that an attack broke.
        others: as ``margin_bound``.

    Raises:
        ValueError, TypeError, RuntimeError: as ``margin_bound``.
    """
    problem, methods, undecided = _prepare(model, x, labels, eps, methods, skip, low, high, batch_size, sound)
    bound = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    by, tallies = torch.full((len(x),), -1, device=x.device), []
    with _bar(progress) as bar:
        for k, name in enumerate(methods):
            began = time.perf_counter()
            rows = problem.hopeful(name, undecided)
            for part, found in problem.bounds(name, rows, bar):
                bound[part] = torch.maximum(bound[part], found)
                by[part[found > 0]] = k
                undecided[part[found > 0]] = False
                if progress:
                    bar.set_postfix(undecided=int(undecided.sum()), refresh=False)
            tallies.append(Tally(len(rows), int((by == k).sum()), time.perf_counter() - began))
    skipped = torch.zeros_like(undecided) if skip is None else skip.clone()
    return Certificate(problem.eps, methods, problem.correct, skipped, bound, by, tuple(tallies))


@torch.no_grad()
def certify_each(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    methods: Iterable[str] | None = None,
    *,
    low: float = 0.0,
    high: float = 1.0,
    batch_size: int | None = None,
    progress: bool = False,
    sound: bool = True,
) -> dict[str, Tensor]:
    """Which samples each method certifies by itself: to compare methods.  ``certify`` finds the same best for less.

    Args, Raises: as ``certify``.

    Returns:
        (N,) bool for each method, in order of cost, and for "best", which is true where any of them is.
    """
    problem, methods, correct = _prepare(model, x, labels, eps, methods, None, low, high, batch_size, sound)
    certified = {name: torch.zeros_like(correct) for name in methods}
    with _bar(progress) as bar:
        for name in methods:
            for part, found in problem.bounds(name, problem.hopeful(name, correct), bar):
                certified[name][part] = found > 0
    return {**certified, "best": torch.stack([torch.zeros_like(correct), *certified.values()]).any(0)}


def _prepare(model, x, labels, eps, methods, skip, low, high, batch_size, sound):
    """The problem, its methods in order of cost, and (N,) bool: which samples are to be bounded."""
    chosen = None if methods is None else _check_methods(methods)
    problem = _Problem(model, x, labels, eps, low, high, batch_size, sound)
    if chosen is None:
        chosen = CERTIFICATES if _has_lipschitz_bound(problem.exact) else tuple(LIRPA_METHODS)
    elif "lipschitz" in chosen:
        lipschitz_bound(problem.exact)  # raises TypeError now, not after the samples were classified
    return problem, chosen, problem.correct & ~_check_skip(skip, x)


def _has_lipschitz_bound(model: nn.Module) -> bool:
    try:
        lipschitz_bound(model)
    except (TypeError, RuntimeError):
        return False
    return True


# What is checked of arguments; every message names the argument.


def _check_arguments(model: nn.Module, x: Tensor, eps: float, low: float, high: float, batch_size: int | None) -> None:
    check_model(model)
    check_not_negative("eps", eps)
    check_range(low, high)
    check_samples(x, model)
    check_pixels(x, low, high)
    if batch_size is not None:
        check_count("batch_size", batch_size)


def _classes(exact: nn.Module, x: Tensor) -> int:
    """How many logits there are; 2 where no sample says."""
    return check_logits(exact(x[:1].double()), 1) if len(x) else 2


def _check_methods(methods: Iterable[str]) -> tuple[str, ...]:
    """In order of cost, each once."""
    if not isinstance(methods, Iterable):
        raise TypeError(f"methods must be names among {', '.join(CERTIFICATES)}, got {methods!r}")
    methods = [methods] if isinstance(methods, str) else list(methods)
    for name in methods:
        if name not in CERTIFICATES:
            raise ValueError(f"methods must be among {', '.join(CERTIFICATES)}, got {name!r}")
    return tuple(name for name in CERTIFICATES if name in methods)


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

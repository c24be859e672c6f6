"""Certificates of a smoothed classifier, each of which holds with a stated probability."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import progress as bars
from ..arguments import check_count, check_positive
from ..norms import check_norm, name_of
from .counts import check_probability, least_draws, lower, upper
from .radii import NOISES, gaussian_radius
from .result import Smoothed
from .sampling import answer, check_arguments, draw_counts, generator
from .several import several_radius

PROBES = 64  # unlike points at which a model must not always give the same logits


@torch.no_grad()
def certify(
    model: nn.Module,
    x: Tensor,
    sigmas: float | Sequence[float] = (0.25,),
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 0.001,
    *,
    noise: str = "gaussian",
    norm: float | str | None = None,
    seed: int = 0,
    offset: int = 0,
    batch_size: int = 1024,
    progress: bool = False,
) -> Smoothed:
    """Returns certificates of the classifier that answers the net's most probable class under the first noise.

    The first n0 draws of ``sigmas[0]`` choose a class.  n more draws of each noise, independent of these, give bounds
    of its probability (Clopper and Pearson).  With one scale this is the algorithm of Cohen et al.  (arXiv
    1902.02918), or that of uniform noise (``radii``), with one lower bound at alpha.  With several scales of Gaussian
    noise it is the certificate of arXiv 2206.01715 (``several_radius``).  It uses both ends for each noise, and the
    signs of its multipliers, which choose the ends, depend on the counts.  So all 2m ends of m noises must hold
    together, and each is taken at alpha/2m.  By the union bound the statement about a sample is false with a
    probability of at most alpha, over the draws of that sample.  Statements about two samples have that probability
    each.

    It abstains where the lower bound for ``sigmas[0]`` is at most ½, and where a draw gave NaN.

    Args:
        model: a net in evaluation mode, (B, *) → (B, classes).
        x: (N, *), float32 or float64, finite.
        sigmas: one or more scales, in units of x, none equal; several only of Gaussian noise.
        n0, n: numbers of draws.
        alpha: the probability that a sample's statement may be false, in (0, 1).
        noise: a name of ``NOISES``.
        norm: the norm of the radii, by exponent or name; one that the noise has a radius for.  By default its first.
        seed: below 2³².
        offset: the index of the first sample.  The result for x[5:] with offset=5 is the end of the result for x.
        batch_size: rows that the model takes at once.
        progress: whether to show a progress bar.

    Raises:
        TypeError, ValueError: an argument is not as described, n is too small for any certificate, or the model
            ignores its input.  The message names the argument.
    """
    check_arguments(model, x, noise, seed, offset, batch_size)
    scales = _scales(sigmas, noise)
    norm = _norm(norm, noise)
    check_count("n0", n0)
    check_count("n", n)
    check_probability("alpha", alpha)
    share = alpha if len(scales) == 1 else alpha / (2 * len(scales))
    if n < (least := least_draws(share)):
        raise ValueError(
            f"n must be at least {least} for alpha={alpha:g} and {len(scales)} noises, got {n}: fewer draws "
            "cannot show that a class has a probability above 1/2"
        )
    if len(x):
        _check_reads(model, x, scales[0])
    options: dict[str, Any] = {"noise": noise, "seed": seed, "offset": offset, "batch_size": batch_size}
    with bars.bar(total=len(x) * (n0 + n * len(scales)), disable=bars.hidden(progress), unit="draw") as bar:
        first = draw_counts(model, x, scales[0], n0, stream=0, bar=bar, **options)
        later = [draw_counts(model, x, s, n, stream=1 + i, bar=bar, **options) for i, s in enumerate(scales)]
    selected = first.argmax(dim=1)
    counts = torch.stack([each.gather(1, selected[:, None])[:, 0] for each in later], dim=1)
    lost = n0 + n * len(scales) - first.sum(dim=1) - sum(each.sum(dim=1) for each in later)
    low, high = lower(counts.numpy(), n, share), upper(counts.numpy(), n, share)
    if len(scales) == 1:
        high = np.ones_like(high)  # no bound at alpha is left for it
    radius, method = _radii(low, high, lost.numpy() > 0, scales, NOISES[noise].radii[norm], x[:1].numel())
    held = radius > 0
    return Smoothed(
        noise, scales, norm, float(alpha), n0, n, offset,
        torch.where(held, selected, -1), radius, selected, counts, lost,
        torch.from_numpy(low), torch.from_numpy(high), method,
    )  # fmt: skip


def _radii(
    low: np.ndarray, high: np.ndarray, lost: np.ndarray, scales: tuple, one: Any, dim: int
) -> tuple[Tensor, Tensor]:
    """Returns (N,) radii and indices in ``CODES``.  Samples with the same counts share one computation."""
    radius, method, known = torch.zeros(len(low), dtype=torch.float64), torch.zeros(len(low), dtype=torch.int64), {}
    for i in np.flatnonzero(~lost & (low[:, 0] > 0.5)):
        ends = tuple(zip(low[i].tolist(), high[i].tolist()))
        if ends not in known:
            single = one(ends[0][0], scales[0], dim)
            together = several_radius(dict(zip(scales, ends)), dim) if len(scales) > 1 else 0.0
            known[ends] = max(single, together), 2 if together > single else 1
        radius[i], method[i] = known[ends]
    return radius, torch.where(radius > 0, method, 0)


def _scales(sigmas: float | Sequence[float], noise: str) -> tuple[float, ...]:
    scales = tuple(sigmas) if isinstance(sigmas, (Sequence, np.ndarray)) else (sigmas,)
    if not scales:
        raise ValueError("sigmas must hold at least one scale, got none")
    for sigma in scales:
        check_positive("sigmas", sigma)
    scales = tuple(map(float, scales))
    if len(set(scales)) < len(scales):
        raise ValueError(f"sigmas must not hold equal scales, got {scales}: a noise given twice tells nothing more")
    if len(scales) > 1 and NOISES[noise].radii.get(2.0) is not gaussian_radius:
        raise ValueError(
            f"sigmas must hold one scale for {noise} noise, got {scales}: several are known for gaussian noise only"
        )
    return scales


def _norm(norm: float | str | None, noise: str) -> float:
    known = NOISES[noise].radii
    exponent = next(iter(known)) if norm is None else check_norm(norm)
    if exponent not in known:
        raise ValueError(f"norm must be one of {', '.join(map(name_of, known))} for {noise} noise, got {norm!r}")
    return exponent


def _check_reads(model: nn.Module, x: Tensor, scale: float) -> None:
    """Raises ValueError if the model gives bit for bit the same logits at unlike points: it ignores its input.

    The certificate of a constant classifier would be true, and worth nothing: most often the net is broken.  The
    points are x[0], 0, and normal numbers of sizes from a thousandth of the noise to a thousand times x and the
    noise.
    """
    largest = 1e3 * (scale + float(x.abs().max()))
    sizes = np.geomspace(1e-3 * scale, largest, PROBES - 2)
    noise = generator(0, 0, 0).standard_normal((len(sizes), x[0].numel())) * sizes[:, None]
    points = torch.from_numpy(noise).to(x.device, x.dtype).view(-1, *x.shape[1:])
    logits = answer(model, torch.cat([x[:1], torch.zeros_like(x[:1]), points]))
    if bool(((logits == logits[:1]) | (logits.isnan() & logits[:1].isnan())).all()) and not bool(logits.isnan().all()):
        raise ValueError(
            f"model ignores its input: it gives the same logits at {PROBES} unlike points, from 0 to {largest:.3g}. "
            "A certificate would say nothing about it"
        )

"""How well noise hides a change of its input: Rényi divergences and total variations, and what follows for the risk.

A net with a noise layer gives a random class M(x).  An input x′ in the ball moves the input of the noise layer by at
most Δ.  The noise then has two distributions that are close, and all that comes later, also its rounding, can only
bring them closer (data processing).  Pinot et al. (arXiv 1902.01148), sections 4 and 5.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..arguments import check_count, check_model, check_not_negative, check_number, check_positive
from ..layers.facts import RANDOM
from ..layers.lipschitz import flat_layers, lipschitz_bound
from ..layers.noise import GaussianNoise, LaplaceNoise, Noise, UniformNoise
from ..norms import NORMS, as_radius, check_norm

OUTWARD = 2.0**-30  # bounds are made larger by this part, which is far more than float64 rounding changes


@dataclass(frozen=True)
class Divergences:
    """How far a noise of scale 1 is from the same noise that is shifted by a vector.

    norm: the norm in which the length t of the shift is measured.
    renyi: (t, order) → the largest Rényi divergence of that order over all shifts of length t, in nats.
    total_variation: t → the largest total variation over all shifts of length t.
    Both are exact for one coordinate, and Gaussian ones in every dimension.  layer: the layer with this noise.
    """

    norm: float
    renyi: Callable[[float, float], float]
    total_variation: Callable[[float], float]
    layer: type[nn.Module]


def _gaussian_renyi(t: float, order: float) -> float:
    """Returns order·t²/2, for N(0, I) and its shift by t in ℓ2."""
    return order * t * t / 2 if t else 0.0


def _laplace_renyi(t: float, order: float) -> float:
    """Returns log(A·e^{ht} + B·e^{−λt})/h with λ = order, h = λ − 1, A = λ/(2λ − 1) and B = h/(2λ − 1).

    It is t + e^{−t} − 1 at λ = 1, and t at λ = ∞.  In several dimensions the divergences of coordinates add up.  As a
    function of t it is convex, and 0 at 0, so Σ R(t_i) ≤ R(Σ t_i): the worst shift moves one coordinate.
    """
    if order == math.inf:
        return t
    if order == 1:
        return t + math.expm1(-t)
    h, a, b = order - 1, order / (2 * order - 1), (order - 1) / (2 * order - 1)
    if h * t > 1:  # e^{ht} may overflow
        return t + math.log(a + b * math.exp(-(h + order) * t)) / h
    return math.log1p(a * math.expm1(h * t) + b * math.expm1(-order * t)) / h


def _uniform_renyi(t: float, order: float) -> float:
    """Returns ∞ for any shift: the shifted noise takes values that the other one cannot take."""
    return math.inf if t else 0.0


# Total variations of product distributions satisfy 1 − V ≥ Π (1 − V_i), by independent couplings of the coordinates.
DIVERGENCES: dict[str, Divergences] = {
    # 2Φ(t/2) − 1: the best test compares with the middle of both means.
    "gaussian": Divergences(2.0, _gaussian_renyi, lambda t: math.erf(t / math.sqrt(8)), GaussianNoise),
    # 1 − e^{−t/2} in one dimension; Π e^{−t_i/2} = e^{−t/2} in several.
    "laplace": Divergences(1.0, _laplace_renyi, lambda t: -math.expm1(-t / 2), LaplaceNoise),
    # t/2 in one dimension, and Π (1 − t_i/2) ≥ 1 − t/2 in several.
    "uniform": Divergences(1.0, _uniform_renyi, lambda t: min(1.0, t / 2), UniformNoise),
}


def renyi(noise: str, shift: float, scale: float, order: float = 1.0) -> float:
    """Returns a bound of the Rényi divergence between a noise and its shift, in nats, rounded up.

    Gaussian: λΔ²/(2σ²), exact.  Laplace: the divergence of one coordinate that is shifted by all of Δ, which no shift
    with the same ℓ1 norm exceeds; it is at most Δ/scale.  Uniform: ∞.

    Args:
        noise: a key of ``DIVERGENCES``.
        shift: Δ ≥ 0, the length of the shift in the norm of that row: ℓ2 for Gaussian noise, ℓ1 for the others.
        scale: σ of Gaussian noise, the scale of Laplace noise, the radius of uniform noise; positive.
        order: λ in [1, ∞].  The order 1 is the Kullback–Leibler divergence, the lowest of these.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """
    row = _row(noise, shift, scale)
    check_number("order", order)
    if not order >= 1:
        raise ValueError(f"order must be at least 1 (math.inf included), got {order}")
    t = shift / scale
    return _up(row.renyi(t, order), t)


def total_variation(noise: str, shift: float, scale: float) -> float:
    """Returns a bound of the total variation between a noise and its shift: in [0, 1], rounded up.

    It is the largest difference of the probabilities of one event.  Gaussian: 2Φ(Δ/2σ) − 1, exact in every dimension.
    Laplace: 1 − e^{−Δ/(2·scale)}; uniform: Δ/(2·radius), at most 1.  These two are exact for one coordinate, and no
    shift with the same ℓ1 norm exceeds them.

    Args: as ``renyi``.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """
    row = _row(noise, shift, scale)
    t = shift / scale
    return min(1.0, _up(row.total_variation(t), t))


def _row(noise: str, shift: float, scale: float) -> Divergences:
    if noise not in DIVERGENCES:
        raise ValueError(f"noise must be one of {', '.join(DIVERGENCES)}, got {noise!r:.80}")
    check_not_negative("shift", shift)
    check_positive("scale", scale)
    return DIVERGENCES[noise]


def _up(value: float, size: float) -> float:
    """Returns a number above the exact one.  Differences of numbers up to ``size`` may be wrong by a part of that."""
    return value + OUTWARD * (value + min(size, 1.0) * 2.0**-16)


@dataclass(frozen=True)
class NoiseShift:
    """What one noise layer of a net hides.

    Attributes:
        layer: the place of the layer in the net, from 0.
        noise: a key of ``DIVERGENCES``.
        scale: of the noise.
        shift: Δ, how far an input of the ball moves the input of the layer, in the norm of the noise.
        renyi: a bound of the Rényi divergence, in nats.
        total_variation: a bound of the total variation.
    """

    layer: int
    noise: str
    scale: float
    shift: float
    renyi: float
    total_variation: float


@torch.no_grad()
def noise_shifts(
    model: nn.Module, shape: tuple[int, ...], eps: float, norm: float | str = 2.0, order: float = 1.0
) -> list[NoiseShift]:
    """Returns what each noise layer of a net hides of a change of the input by at most eps.

    Δ is eps times the product of the Lipschitz bounds of the layers before, and of the factors between norms:
    ‖v‖_r ≤ d^{1/r − 1/q}·‖v‖_q for r < q.  The lowest product over the norms ℓ1, ℓ2 and ℓ∞ counts.  Noise layers before
    do not matter: for each value of their noise, the rest is a fixed net, and both measures of a mixture are at most
    the largest of its parts.  So each layer gives a bound of its own for the whole net.

    Δ is about exact arithmetic in the layers before the noise.  No layer stands before noise at the input.

    Args:
        model: a ``Sequential``, or one noise layer; in evaluation mode.
        shape: of one sample, without the batch.
        eps, norm: the radius of the ball, in units of the input, and its norm.
        order: of the Rényi divergence.

    Raises:
        TypeError: the layers before a noise layer have no Lipschitz bound in any norm.
        ValueError: no layer adds noise, or an argument is not as described.
    """
    check_model(model)
    eps, norm = as_radius(eps), check_norm(norm)
    for size in shape:
        check_count("shape", size)
    names = {row.layer: name for name, row in DIVERGENCES.items()}
    before, found, x = [], [], torch.zeros(1, *shape)
    first = next(iter([*model.parameters(), *model.buffers()]), x)
    x = x.to(first.device, first.dtype)
    for place, layer in enumerate(flat_layers(model)):
        if not isinstance(layer, Noise) or type(layer) not in names:
            before.append(layer)
            x = layer(x)
            continue
        noise, scale = names[type(layer)], getattr(layer, layer.size_name)
        if scale == 0:
            continue
        shift = eps * _growth(before, math.prod(shape), norm, x.numel(), DIVERGENCES[noise].norm) if eps else 0.0
        measures = renyi(noise, shift, scale, order), total_variation(noise, shift, scale)
        found.append(NoiseShift(place, noise, scale, shift, *measures))
    if not found:
        kinds = ", ".join(kind.__name__ for kind in RANDOM)
        raise ValueError(f"model has no layer that adds noise: its Sequential needs one of {kinds}, with noise above 0")
    return found


def _growth(layers: list[nn.Module], inputs: int, norm: float, outputs: int, last: float) -> float:
    """Returns L with ‖f(x′) − f(x)‖_last ≤ L·‖x′ − x‖_norm for the composition f of the layers, rounded up."""
    found, refusal = math.inf, None
    for middle in NORMS.values():
        try:
            bound = math.prod(lipschitz_bound(layer, middle) for layer in layers)
        except TypeError as error:
            refusal = error
            continue
        found = min(found, _between(norm, middle, inputs) * bound * _between(middle, last, outputs))
    if found == math.inf:
        raise refusal or ValueError("model has an infinite Lipschitz bound before its noise")
    return found * (1 + OUTWARD) if layers or norm > last else found


def _between(given: float, wanted: float, size: int) -> float:
    """Returns the largest ‖v‖_wanted of vectors of this size with ‖v‖_given = 1."""
    return size ** max(0.0, 1 / wanted - 1 / given)


def certified_risk_gap(divergence: float, variation: float, entropy: Tensor) -> Tensor:
    """Returns how much an attack can raise the probability of an error at each sample: (N,) float64, in [0, 1].

    It is min(V, 1 − e^{−ε − H}) with the total variation V, the divergence ε, and the entropy H of the classes at x.

    Let p and q be the distributions of classes at x and at x′ in the ball.  The probability of one event differs by at
    most the total variation of p and q, and so by at most the probability that two draws differ, 1 − Σ p_i·q_i, if they
    are drawn independently.  By Jensen's inequality Σ p_i·q_i ≥ e^{Σ p_i·log q_i} = e^{−H(p) − KL(p‖q)}.  Pinot et al.
    (arXiv 1902.01148), theorem 3, state the mean of the second bound over x.

    Args:
        divergence: ε, a bound of the Rényi divergence of an order ≥ 1, in nats.
        variation: V, a bound of the total variation.
        entropy: (N,), upper bounds of the entropies, in nats.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """
    check_number("divergence", divergence)
    check_not_negative("variation", variation)
    if not divergence >= 0:
        raise ValueError(f"divergence must be at least 0, got {divergence}")
    if not isinstance(entropy, Tensor) or not entropy.is_floating_point():
        raise TypeError("entropy must be a floating-point tensor (N,)")
    if entropy.dim() != 1 or not (entropy >= 0).all():
        raise ValueError("entropy must have shape (N,) and values of at least 0")
    by_entropy = -torch.expm1(-divergence - entropy.double()) * (1 + OUTWARD)
    return by_entropy.clamp_max(min(1.0, variation))

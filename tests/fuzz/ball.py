"""The float32 numbers of ℓ∞ balls, exactly, and ways to choose among them."""

import math

import torch
from torch import Tensor


def difference(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a − b of float32 numbers, exactly: rounded to float64, and what rounding took away (Knuth's two-sum)."""
    a, b = a.double(), b.double()
    d = a - b
    back = d - a
    return d, (a - (d - back)) - (b + back)


def at_most(d: Tensor, error: Tensor, bound: Tensor | float, strict: bool = False) -> Tensor:
    """Whether d + error ≤ bound, or < bound, for a pair of ``difference`` and a float64 bound.

    d is the exact value rounded to nearest: where d differs from the bound, the exact value lies on d's side of it.
    """
    return (d < bound) | ((d == bound) & ((error < 0) if strict else (error <= 0)))


def like(a: Tensor, x: Tensor) -> Tensor:
    """a (N,) in the shape that broadcasts over x (N, *)."""
    return a.view(-1, *[1] * (x.dim() - 1))


def inside(
    x: Tensor, moved: Tensor, eps: Tensor | float, low: float = -math.inf, high: float = math.inf, strict: bool = False
) -> Tensor:
    """Whether |moved − x| ≤ eps (< eps) in exact arithmetic and low ≤ moved ≤ high, coordinate by coordinate."""
    d, error = difference(moved, x)
    within = at_most(d, error, eps, strict) & at_most(-d, -error, eps, strict)
    return within & (low <= moved.double()) & (moved.double() <= high)


def ends(
    x: Tensor, eps: Tensor | float, low: float = -math.inf, high: float = math.inf, strict: bool = False
) -> tuple[Tensor, Tensor]:
    """The least and the largest float32 number of the ball, coordinate by coordinate: all between are in it, too.

    x itself must be in it.  eps broadcasts over x.
    """
    found = []
    for sign in (-1.0, 1.0):
        end = (x.double() + sign * eps).clamp(low, high).float()
        end = torch.nextafter(end, torch.full_like(end, sign * math.inf))  # beyond, if the ball ends there
        while not (ok := inside(x, end, eps, low, high, strict)).all():
            end = torch.where(ok, end, torch.nextafter(end, x))
        found.append(end)
    return found[0], found[1]


class Region:
    """What balls of each norm have: around each of x (N, *), the float32 inputs within eps and low ≤ x′ ≤ high.

    Args:
        eps: (N,) float64.
        low, high: the pixel range.
        strict: whether the balls are open.  Of an empty ball, x itself is taken.

    Attributes:
        lower, upper: (N, *) float32, the ends of each coordinate, if the others stay where they are.
    """

    def __init__(self, x: Tensor, eps: Tensor, low: float = -math.inf, high: float = math.inf, *, strict: bool = False):
        self.x, self.eps, self.low, self.high, self.strict = x, eps, low, high, strict
        empty = (eps == 0) & strict
        lower, upper = ends(x, like(torch.where(empty, math.inf, eps), x), low, high, strict)
        self.lower, self.upper = (torch.where(like(empty, x), x, end) for end in (lower, upper))


class Box(Region):
    """The float32 inputs with ‖x′ − x‖∞ ≤ eps and low ≤ x′ ≤ high, around each of x (N, *)."""

    def holds(self, moved: Tensor) -> Tensor:
        """(M, N): which of the points (M, N, *) are in the balls, exactly."""
        within = inside(self.x, moved, like(self.eps, self.x), self.low, self.high, self.strict)
        return within.flatten(2).all(2)

    def sample(self, kinks: Tensor, count: int) -> Tensor:
        """(at least count, N, *) points of the balls.

        kinks: (K, *) places where first distances are 0; coordinates of the ball that hold one are moved to it.
        """
        each = -(-count // len(SAMPLERS))
        wide = self.x.expand(each, *self.x.shape)
        parts = [sampler(wide, self.lower, self.upper, kinks) for sampler in SAMPLERS]
        return torch.cat(parts).clamp(self.lower, self.upper)

    def starts(self, count: int) -> Tensor:
        """(count, N, *): corners and points inside, by turns."""
        t = torch.rand(count, *self.x.shape, dtype=torch.float64)
        t[::2] = t[::2].round()
        return (self.lower + t * (self.upper.double() - self.lower)).float().clamp(self.lower, self.upper)

    def descend(self, a: Tensor, gradient: Tensor, step: float) -> Tensor:
        """Points a (M, N, *) after a step against the sign of the gradient, in half widths of the ball."""
        moved = a - step / 2 * gradient.sign().double() * (self.upper.double() - self.lower)
        return moved.float().clamp(self.lower, self.upper)


def steps_towards(a: Tensor, towards: Tensor, most: int) -> Tensor:
    """0 to ``most`` float32 steps."""
    count = torch.randint(0, most + 1, a.shape)
    for k in range(most):
        a = torch.where(count > k, torch.nextafter(a, towards), a)
    return a


def coin(x: Tensor) -> Tensor:
    return torch.rand(x.shape) < 0.5


def _corners(x, lower, upper, kinks):
    return torch.where(coin(x), lower, upper)


def _near_corners(x, lower, upper, kinks):
    """A few steps inside, and at 1 − 2⁻²⁰ and 0.999999 of the way."""
    corner = _corners(x, lower, upper, kinks)
    part = torch.tensor([1 - 2.0**-20, 0.999999, 1.0], dtype=torch.float64)[torch.randint(0, 3, x.shape[:2])]
    part = part.view(*x.shape[:2], *[1] * (x.dim() - 2))
    return steps_towards((x.double() + part * (corner.double() - x.double())).float(), x, 3)


def _inside(x, lower, upper, kinks):
    t = torch.rand(x.shape, dtype=torch.float64)
    return (lower.double() + t * (upper.double() - lower.double())).float()


def single_moves(x, lower, upper, kinks=None):
    """One coordinate at an end, the others where they were."""
    flat = x.flatten(2)
    chosen = torch.randint(0, flat.shape[2], (*flat.shape[:2], 1))
    moved = torch.zeros(flat.shape, dtype=torch.bool).scatter(2, chosen, True).view(x.shape)
    return torch.where(moved, _corners(x, lower, upper, kinks), x)


def _nearest(x, lower, upper, kinks):
    """A few float32 steps from x."""
    return steps_towards(x, _corners(x, lower, upper, kinks), 3)


def _at_kinks(x, lower, upper, kinks):
    """Where the ball holds a coordinate of a kink, at it or a step beside it; elsewhere at an end."""
    if len(kinks) == 0:
        return _inside(x, lower, upper, kinks)
    chosen = kinks[torch.randint(0, len(kinks), x.shape[:2])]
    ends_ = _corners(x, lower, upper, kinks)
    return torch.where((lower <= chosen) & (chosen <= upper) & coin(x), steps_towards(chosen, ends_, 1), ends_)


SAMPLERS = (_corners, _near_corners, _inside, single_moves, _nearest, _at_kinks)

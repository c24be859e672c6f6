"""The float32 points of ℓ2 balls, exactly, and ways to choose among them."""

from fractions import Fraction

import torch
from torch import Tensor

from .ball import Region, coin, difference, like, single_moves, steps_towards

PARTS = (1.0, 1 - 2.0**-25, 1 - 2.0**-23, 1 - 2.0**-20, 1 - 2.0**-12, 0.5)  # of a step, until its end is in the ball
FAR = 2.0**200  # a step of this length ends at the sphere of every ball
FITS = 4  # how often a step that the pixel range cuts off is made longer


def _length(a: Tensor) -> Tensor:
    """(M, N, 1, …) of a (M, N, *) float64, never 0."""
    length = torch.linalg.vector_norm(a.flatten(2), dim=2).clamp_min(2.0**-500)
    return length.view(*a.shape[:2], *[1] * (a.dim() - 2))


def _square(x: Tensor, moved: Tensor) -> Fraction:
    """‖moved − x‖₂², exactly."""
    pairs = zip(moved.flatten().tolist(), x.flatten().tolist())
    return sum(((Fraction(a) - Fraction(b)) ** 2 for a, b in pairs), Fraction(0))


class Sphere(Region):
    """The float32 inputs with ‖x′ − x‖₂ ≤ eps and low ≤ x′ ≤ high, around each of x (N, *)."""

    def holds(self, moved: Tensor) -> Tensor:
        """(M, N): which of the points (M, N, *) are in the balls, exactly.

        The sum of n squares in float64 is off by less than (n + 4)·2⁻⁵³ of itself, with the rounding of differences.
        Where this does not decide, fractions do.  Nothing underflows: differences are multiples of 2⁻¹⁴⁹.
        """
        square = difference(moved, self.x)[0].flatten(2).square().sum(2)
        spare, limit = (self.x[0].numel() + 8) * 2.0**-52, self.eps.square()
        within = square * (1 + spare) < limit * (1 - spare)
        within |= (square == 0) & ((self.eps > 0) | (not self.strict))
        unsure = ~within & (square > 0) & (square * (1 - spare) <= limit * (1 + spare))
        for k, i in unsure.nonzero().tolist():
            exact, most = _square(self.x[i], moved[k, i]), Fraction(self.eps[i].item()) ** 2
            within[k, i] = exact < most if self.strict else exact <= most
        ranged = (self.low <= moved.double()) & (moved.double() <= self.high)
        return within & ranged.flatten(2).all(2)

    def settle(self, steps: Tensor) -> Tensor:
        """Points of the balls near x + steps (M, N, *) float64.  Longer steps end as near at the sphere as they can.

        Each point is rounded to nearest if the ball holds it then, else of a step that is a little shorter.  At last
        each coordinate is rounded towards x, so that no coordinate moves farther than its step.
        """
        at, most = self.x.double(), like(self.eps, self.x)
        steps = steps * (most / _length(steps)).clamp_max(1.0)
        moved = self.x.expand(steps.shape)
        done = torch.zeros(steps.shape[:2], dtype=torch.bool)
        for part in PARTS:
            tried = (at + part * steps).float().clamp(self.lower, self.upper)
            moved, done = self._first(moved, done, tried)
            if done.all():
                return moved
        tried = (at + (1 - 2.0**-40) * steps).float()
        tried = torch.where((tried - at).abs() > steps.abs(), torch.nextafter(tried, self.x), tried)
        return self._first(moved, done, tried.clamp(self.lower, self.upper))[0]

    def _first(self, moved: Tensor, done: Tensor, tried: Tensor) -> tuple[Tensor, Tensor]:
        """Takes the points that were tried, where there was none yet and the ball holds them."""
        taken = ~done & self.holds(tried)
        return torch.where(taken.view(*taken.shape, *[1] * (tried.dim() - 2)), tried, moved), done | taken

    def out(self, steps: Tensor) -> Tensor:
        """Steps (M, N, *) float64 that end at the sphere, or as far as the pixel range lets them."""
        at, most = self.x.double(), like(self.eps, self.x)
        for _ in range(FITS):
            steps = (at + steps * (most / _length(steps))).clamp(self.low, self.high) - at
        return steps

    def sample(self, ways: Tensor, count: int) -> Tensor:
        """(at least count, N, *) points of the balls.

        ways: (K, N, *) float64 steps from x, to kinks and against gradients.
        """
        each = -(-count // len(SAMPLERS))
        points = torch.cat([sampler(self, torch.randn(each, *self.x.shape).double(), ways) for sampler in SAMPLERS])
        held = self.holds(points)
        return torch.where(held.view(*held.shape, *[1] * (points.dim() - 2)), points, self.x)

    def starts(self, count: int) -> Tensor:
        """(count, N, *): points at the sphere and inside, by turns."""
        steps = self.out(torch.randn(count, *self.x.shape).double())
        steps[1::2] *= torch.rand(steps[1::2].shape[:2], dtype=torch.float64).view(-1, *like(self.eps, self.x).shape)
        return self.settle(steps)

    def descend(self, a: Tensor, gradient: Tensor, step: float) -> Tensor:
        """Points a (M, N, *) after a step against the gradient, in radii, and back to the ball."""
        g = gradient.double()
        moved = a.double() - step * like(self.eps, self.x) * (g / _length(g))
        return self.settle(moved.clamp(self.low, self.high) - self.x.double())


# Samplers: (ball, normal numbers (M, N, *), ways) → points.


def _at_sphere(ball, normal, ways):
    return ball.settle(ball.out(normal))


def _near_sphere(ball, normal, ways):
    """A few float32 steps from the sphere, and at 1 − 2⁻²⁰ and 0.999999 of the way."""
    part = torch.tensor([1 - 2.0**-20, 0.999999, 1.0], dtype=torch.float64)[torch.randint(0, 3, normal.shape[:2])]
    point = ball.settle(part.view(*normal.shape[:2], *[1] * (normal.dim() - 2)) * ball.out(normal))
    return steps_towards(point, ball.x, 3)


def _inside(ball, normal, ways):
    part = torch.rand(normal.shape[:2], dtype=torch.float64)
    return ball.settle(part.view(*normal.shape[:2], *[1] * (normal.dim() - 2)) * ball.out(normal))


def _few(ball, normal, ways):
    """Few coordinates move, the others stay."""
    return ball.settle(ball.out(torch.where(torch.rand(normal.shape) < 2 / max(2, normal[0, 0].numel()), normal, 0.0)))


def _single_moves(ball, normal, ways):
    return single_moves(ball.x.expand(normal.shape), ball.lower, ball.upper)


def _corners(ball, normal, ways):
    """All coordinates move equally far, as in the box inside of the ball."""
    return ball.settle(ball.out(normal.sign()))


def _nearest(ball, normal, ways):
    """A few float32 steps from x."""
    return ball.settle(
        steps_towards(ball.x.expand(normal.shape), torch.where(coin(normal), ball.lower, ball.upper), 3).double()
        - ball.x.double()
    )


def _along_ways(ball, normal, ways):
    """At a kink, or where the way to it leaves the ball; some a float32 step beside it."""
    if len(ways) == 0:
        return _inside(ball, normal, ways)
    chosen = ways[torch.randint(0, len(ways), normal.shape[:2]), torch.arange(normal.shape[1])]
    chosen = torch.where(_length(chosen) >= FAR / 2, ball.out(chosen), chosen)
    point = ball.settle(chosen)
    aside = torch.nextafter(point, torch.where(coin(normal), ball.lower, ball.upper))
    return torch.where(torch.rand(normal.shape) < 0.1, aside, point)


def _beside_ways(ball, normal, ways):
    """Near a way, at the sphere."""
    if len(ways) == 0:
        return _at_sphere(ball, normal, ways)
    chosen = ways[torch.randint(0, len(ways), normal.shape[:2]), torch.arange(normal.shape[1])]
    part = 10 ** (-4 * torch.rand(normal.shape[:2], dtype=torch.float64)).view(
        *normal.shape[:2], *[1] * (normal.dim() - 2)
    )
    return ball.settle(ball.out(chosen / _length(chosen) + part * normal / _length(normal)))


SAMPLERS = (_at_sphere, _near_sphere, _inside, _few, _single_moves, _corners, _nearest, _along_ways, _beside_ways)

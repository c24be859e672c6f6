"""What is known of each sample: its prediction, the radius by each certificate, and what an attack did."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..certificates import failure_of

NOTHING = -1.0  # the radius of a sample of which nothing is proved
ALONG = " along "  # in the name of an attack that climbs along a surrogate; the name in the recipe stands before it


@dataclass(frozen=True, eq=False)
class PerSample:
    """What is known of N samples, on the CPU.

    sample: (N,) int64, their numbers, ascending.  labels, prediction: (N,) int64.  margin: (N,) float32, the logit of
    the label minus the largest other one.  proved: certificate → (N,) float64, the largest ε that it, or a certificate
    that it contains, proved; −1 if it proved none.  bound: certificate → (N,) float64, the lower bound of the margin by
    which it proved that.  radius: certificate → (N,) float64, of those that compute radii.  broken: (N,) float64, the
    smallest ε at which an attack broke the sample; ∞ if none did.  by: what broke each sample, "" if nothing did.
    points: number of a sample → the adversarial point, of some broken samples.  attack_seconds: attack of the recipe →
    seconds.  tried: ε → certificate → (how many samples it bounded, its seconds).
    """

    sample: Tensor
    labels: Tensor
    prediction: Tensor
    margin: Tensor
    proved: dict[str, Tensor]
    bound: dict[str, Tensor]
    radius: dict[str, Tensor]
    broken: Tensor
    by: list[str]
    points: dict[int, Tensor]
    attack_seconds: dict[str, float]
    tried: dict[float, dict[str, tuple[int, float]]]

    @property
    def correct(self) -> Tensor:
        return self.prediction == self.labels

    def certified(self, name: str, eps: float) -> Tensor:
        """Returns (N,) bool: the certificate, or one that it contains, proves this ε.  Balls are nested."""
        return self.proved[name] >= eps

    def best(self) -> Tensor:
        """Returns (N,) float64: the largest ε that a theorem proved; −1 if none did."""
        theorems = [radii for name, radii in self.proved.items() if failure_of(name) == 0]
        return torch.stack([torch.full_like(self.broken, NOTHING), *theorems]).amax(0)

    def survives(self, eps: float, attacks: list[str] | None = None) -> Tensor:
        """Returns (N,) bool: classified correctly, and not broken at this or a smaller ε by these attacks.

        attacks: names in the recipe; by default all.
        """
        broken = self.broken <= eps
        if attacks is not None:
            broken &= torch.tensor([name.split(ALONG)[0] in attacks for name in self.by], dtype=torch.bool)
        return self.correct & ~broken

    def attacked(self, attacks: list[str], eps_values) -> dict[str, dict[float, float]]:
        """Returns attack → ε → the fraction that is correct after it and those before it.

        A sample that a later attack broke at a smaller ε is not tried again, and counts as not broken by the others.
        """
        before = {name: attacks[: i + 1] for i, name in enumerate(attacks)}
        return {name: {e: share(self.survives(e, some)) for e in eps_values} for name, some in before.items()}

    def broken_by(self, eps: float) -> dict[str, int]:
        """Returns what broke samples at this or a smaller ε → how many."""
        there = [self.by[i] for i in (self.correct & (self.broken <= eps)).nonzero().squeeze(1).tolist()]
        return {name: there.count(name) for name in dict.fromkeys(filter(None, self.by)) if name in there}

    def broken_though_certified(self, eps_values) -> dict[str, int]:
        """Returns, for each certificate that may fail, how often an attack broke what it certified, over all ε."""
        return {
            name: sum(int((self.certified(name, eps) & (self.broken <= eps)).sum()) for eps in eps_values)
            for name in self.proved
            if failure_of(name) > 0
        }

    def contradicted(self) -> dict[int, str]:
        """Returns row → the cheapest theorem that proved it at an ε at which an attack broke it, or at a larger one."""
        found: dict[int, str] = {}
        for name, radii in self.proved.items():
            if failure_of(name) == 0:
                for row in (radii >= self.broken).nonzero().squeeze(1).tolist():
                    found.setdefault(row, name)
        return dict(sorted(found.items()))

    def certify_seconds(self) -> dict[str, float]:
        """Returns certificate → seconds, over all ε."""
        return {name: sum(each[name][1] for each in self.tried.values()) for name in self.proved}

    def plain(self) -> dict:
        """Returns tensors and plain data, for a checkpoint; ``from_plain`` reads them."""
        tried = [[eps, name, *each] for eps, names in self.tried.items() for name, each in names.items()]
        points = {str(row): point for row, point in self.points.items()}
        return {**vars(self), "points": points, "tried": tried}


def from_plain(content: dict) -> PerSample:
    tried: dict[float, dict[str, tuple[int, float]]] = {}
    for eps, name, samples, seconds in content["tried"]:
        tried.setdefault(eps, {})[name] = samples, seconds
    points = {int(row): point for row, point in content["points"].items()}
    return PerSample(**content | {"points": points, "tried": tried})


def joined(parts: list[PerSample], *, parallel: bool = False) -> PerSample:
    """Returns what is known of all samples of these parts, which were measured in the same way.

    parallel: whether the parts were measured at the same time.  The longest time of a certificate or an attack then
    counts, and otherwise the sum.
    """
    total = max if parallel else sum
    order = torch.cat([part.sample for part in parts]).argsort()
    together = [name for part in parts for name in part.by]

    def whole(of) -> Tensor:
        return torch.cat([of(part) for part in parts])[order]

    def each(of) -> dict[str, Tensor]:
        return {name: whole(lambda part, name=name: of(part)[name]) for name in of(parts[0])}

    return replace(
        parts[0],
        sample=whole(lambda part: part.sample),
        labels=whole(lambda part: part.labels),
        prediction=whole(lambda part: part.prediction),
        margin=whole(lambda part: part.margin),
        proved=each(lambda part: part.proved),
        bound=each(lambda part: part.bound),
        radius=each(lambda part: part.radius),
        broken=whole(lambda part: part.broken),
        by=[together[i] for i in order.tolist()],
        points={row: point for part in parts for row, point in part.points.items()},
        attack_seconds={n: total(part.attack_seconds[n] for part in parts) for n in parts[0].attack_seconds},
        tried={
            eps: {
                name: (sum(p.tried[eps][name][0] for p in parts), total(p.tried[eps][name][1] for p in parts))
                for name in names
            }
            for eps, names in parts[0].tried.items()
        },
    )


def share(samples: Tensor) -> float:
    """Returns the fraction of the samples that are true."""
    return samples.double().mean().item()


def unbroken(count: int) -> Tensor:
    """Returns ``PerSample.broken`` before any attack."""
    return torch.full((count,), math.inf, dtype=torch.float64)

"""Tries several attacks on samples, and says which of them broke each sample."""

import inspect
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from linf_plugin.arguments import (
    check_count,
    check_labels,
    check_logits,
    check_model,
    check_pixels,
    check_samples,
    check_seed,
    kind,
)
from linf_plugin.inference import outside_inference
from linf_plugin.norms import Ball
from linf_plugin.plain import shown

from .attack import ATTACKS, GIVEN, Attack
from .surrogates import SURROGATES
from .toolbox import predicted

ALONG = " along "  # between the name of an attack and that of a surrogate
NOT_BROKEN = -1
BATCH = 512  # samples at a time


@dataclass(frozen=True)
class Attacked:
    """What attacks did to N samples at one ε.

    Attributes:
        survives: (N,) bool, classified correctly, and not broken by any attack.
        by: (N,) int64, the index in ``names`` of what broke the sample; −1 if nothing did.
        names: all that was tried, in order: names of attacks, and names such as "pgd along leaky".
        points: (N, *), the point that breaks the sample; x where nothing broke it.
        seconds: name of an attack → seconds, with its surrogates.
        tried: (N,) bool, the samples that were attacked.
    """

    survives: Tensor
    by: Tensor
    names: tuple[str, ...]
    points: Tensor
    seconds: dict[str, float]
    tried: Tensor

    def broken_by(self) -> dict[str, int]:
        """Returns name → how many samples it broke, for each of ``names``."""
        return {name: int((self.by == i).sum()) for i, name in enumerate(self.names)}

    def survives_until(self, attack: str) -> Tensor:
        """Returns (N,) bool: classified correctly, and not broken by this attack or by one before it."""
        tried = list(self.seconds)
        later = set(tried[tried.index(attack) + 1 :])
        names = [i for i, name in enumerate(self.names) if name.partition(ALONG)[0] in later]
        return self.survives | torch.isin(self.by, torch.tensor(names, dtype=torch.long, device=self.by.device))


@outside_inference
def attack_all(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    tables: Sequence[dict],
    *,
    seed: int,
    among: Tensor | None = None,
    batch_size: int = BATCH,
) -> Attacked:
    """Tries attacks in order, each on the samples that nothing has broken yet.

    An attack that follows gradients climbs along the model, then along each surrogate that applies to the model.  The
    accuracy that is left is an upper bound of the robust accuracy, not a certificate.

    Args:
        model: in evaluation mode.
        x: (N, C, H, W) or (N, F), in [0, 1].
        labels: (N,) int64.
        eps: radius in the pixel range, in the norm of each attack.
        tables: attacks as a recipe has them, {"name": …, arguments…}, none twice.
        seed: decides all random choices.  The global generators of NumPy and PyTorch stay as they are.
        among: (N,) bool, the samples that may be attacked; by default all.  Samples that are misclassified are not
            attacked.
        batch_size: number of samples at a time, where a table gives none.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """
    return _attacked(model, x, labels, eps, _rows(tables), seed, among, batch_size)


def pgd_survives(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    *,
    steps: int = 20,
    restarts: int = 2,
    seed: int = 0,
    batch_size: int = BATCH,
) -> Tensor:
    """Returns which samples are classified correctly both unperturbed and after every try of ``pgd``.

    Args:
        model, x, labels, eps, seed, batch_size: as ``attack_all``.
        steps: number of gradient steps from each start.
        restarts: number of random starts for each net whose gradients are followed.

    Returns:
        (N,) bool.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """
    table = {"name": "pgd", "steps": steps, "restarts": restarts}
    return attack_all(model, x, labels, eps, [table], seed=seed, batch_size=batch_size).survives


def _attacked(model, x, labels, eps, rows, seed, among, batch_size) -> Attacked:
    labels, among = _checked(model, x, labels, seed, among, batch_size)
    for attack, _ in rows.values():
        eps = Ball(eps, attack.norm, 0.0, 1.0).eps
    right = predicted(model, x, batch_size) == labels
    left, tried, draw = right & among, right & among, random.Random(seed)
    points, by, names = x.clone(), torch.full_like(labels, NOT_BROKEN), []
    seconds = dict.fromkeys(rows, 0.0)
    for name, (attack, arguments) in rows.items():
        began = time.perf_counter()
        for along, climbed in _ways(model, attack):
            at, given = left.nonzero().squeeze(1), {"seed": draw.randrange(2**32), "batch_size": batch_size, **climbed}
            found = attack.find(model, x[at], labels[at], eps, **given | arguments)  # of no sample: it checks arguments
            broken = predicted(model, found, batch_size) != labels[at]
            points[at[broken]], by[at[broken]], left[at[broken]] = found[broken], len(names), False
            names.append(name + along)
        seconds[name] = time.perf_counter() - began
    return Attacked(left | (right & ~among), by, tuple(names), points, seconds, tried)


def _ways(model: nn.Module, attack: Attack) -> Iterator[tuple[str, dict]]:
    """Yields the end of the name, and the argument of ``find``, for each net whose gradients the attack follows."""
    yield "", {}
    for name, surrogate in SURROGATES.items() if attack.climbs else ():
        if surrogate.applies(model):
            yield ALONG + name, {"climbed": surrogate.of(model)}


def _checked(model, x, labels, seed, among, batch_size) -> tuple[Tensor, Tensor]:
    """Returns the labels as int64, and ``among`` as a tensor.  Raises TypeError or ValueError for a wrong argument."""
    check_model(model)
    check_samples(x, model)
    check_pixels(x, 0.0, 1.0)
    check_seed(seed)
    check_count("batch_size", batch_size)
    with torch.no_grad():
        classes = check_logits(model(x[:1].clone()), 1) if len(x) else None
    if among is None:
        among = torch.ones(len(x), dtype=torch.bool, device=x.device)
    if not isinstance(among, Tensor) or among.dtype != torch.bool:
        raise TypeError(f"among must be a tensor of bool, got {kind(among)}")
    if among.shape != x.shape[:1]:
        raise ValueError(f"among must have shape ({len(x)},), got {tuple(among.shape)}")
    return check_labels(labels, x, classes), among.to(x.device)


def _rows(tables: Sequence[dict]) -> dict[str, tuple[Attack, dict]]:
    """Returns name → the row of the attack and its arguments.  Raises TypeError or ValueError for a wrong table."""
    if not isinstance(tables, (list, tuple)) or not all(isinstance(table, dict) for table in tables):
        raise TypeError(f"tables must be a list of dictionaries, got {shown(tables)}")
    rows: dict[str, tuple[Attack, dict]] = {}
    for table in tables:
        name, arguments = table.get("name"), {key: value for key, value in table.items() if key != "name"}
        if not isinstance(name, str) or name not in ATTACKS:
            raise ValueError(f"tables: name must be one of {', '.join(ATTACKS)}, got {shown(name)}")
        if name in rows:
            raise ValueError(f"tables: {name} stands twice")
        known = [key for key in inspect.signature(ATTACKS[name].find).parameters if key not in GIVEN]
        if unknown := [key for key in arguments if key not in known]:
            raise ValueError(f"tables: {name} has no argument {shown(unknown[0])}; it has {', '.join(known)}")
        rows[name] = ATTACKS[name], arguments
    return rows

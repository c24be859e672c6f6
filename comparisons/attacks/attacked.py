"""The attacks of a recipe, one after the other: each is tried on the samples that those before it did not break."""

import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from linf_plugin import extras

from .pgd import _inside, _targets

ALONG = "pgd along a finite p"  # PGD on the copy of a distance net


@dataclass(frozen=True, eq=False)
class Attacked:
    """What attacks broke of N samples.

    survives: (N,) bool, classified correctly and not broken.  by: (N,) int64, the index in ``names`` of the attack that
    broke the sample, −1 if none did.  names: of all attacks, in order.  points: (N, *) float32 on the device of x, the
    adversarial points, and x where there is none.  seconds: name of an attack in the recipe → its seconds.
    """

    survives: Tensor
    by: Tensor
    names: tuple[str, ...]
    points: Tensor
    seconds: dict[str, float]


def attack_all(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    tables,
    *,
    seed: int,
    among: Tensor | None = None,
    batch_size: int = 512,
) -> Attacked:
    """Attacks the samples that are classified correctly.

    Args:
        model, x, labels, eps, seed, batch_size: as for ``pgd_survives``.
        tables: attacks as a recipe has them, {"name": …, arguments…}.
        among: (N,) bool, the samples to attack; by default all.
    """
    names, survives, points, seconds = ("pgd", ALONG), _correct(model, x, labels, batch_size), x.clone(), {}
    by = torch.full((len(x),), -1, device=x.device)
    among = survives if among is None else survives & among
    for table in tables:
        began = time.perf_counter()
        arguments = {"steps": 20, "restarts": 2} | {key: value for key, value in table.items() if key != "name"}
        for i, target in enumerate(_targets(model) if eps > 0 else []):
            rows = (among & (by < 0)).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            found = _pgd(model, target, x[rows], labels[rows], eps, (seed + i) % 2**32, batch_size, **arguments)
            wrong = ~_correct(model, found, labels[rows], batch_size)
            points[rows[wrong]], by[rows[wrong]] = found[wrong], i
        seconds[table["name"]] = time.perf_counter() - began
    return Attacked(survives & (by < 0), by, names, points, seconds)


def _correct(model: nn.Module, x: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    with torch.no_grad():
        parts = [model(part.clone()).argmax(1) for part in x.split(batch_size)] if len(x) else [labels]
    return torch.cat(parts) == labels


def _pgd(model, target, x, labels, eps, seed, batch_size, *, steps, restarts) -> Tensor:
    with extras.named():
        from art.attacks.evasion import ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
            classifier = PyTorchClassifier(
                target,
                loss=nn.CrossEntropyLoss(),
                input_shape=tuple(x.shape[1:]),
                nb_classes=model(x[:1].clone()).shape[1],
                clip_values=(0.0, 1.0),
                device_type="cpu" if x.device.type == "cpu" else "gpu",
            )
            steps = {"eps": eps, "eps_step": eps / 4, "max_iter": steps, "num_random_init": restarts}
            attack = ProjectedGradientDescentPyTorch(classifier, **steps, batch_size=batch_size, verbose=False)
            found = attack.generate(x.cpu().numpy(), labels.cpu().numpy())
    finally:
        np.random.set_state(state)
    return _inside(x, torch.from_numpy(found).to(x.device), eps)

"""A sample that a theorem certifies and an attack breaks stops the run.  All about it is written to a file."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from linf_plugin.files import replacing

from ..attacks.attack import label_of as label_of_attack
from ..certificates import label_of
from .per_sample import ALONG, PerSample

MOST = 24  # files


class Contradiction(RuntimeError):
    """An attack broke samples that a theorem certifies.

    paths: the files that say all about the first of them.
    """

    def __init__(self, message: str, paths: tuple[Path, ...]):
        super().__init__(message)
        self.paths = paths


def files_of(out: Path, method: str) -> set[tuple[Path, int]]:
    """Returns the files of contradictions of a method in a folder, each with its time of writing."""
    return {(path, path.stat().st_mtime_ns) for path in out.glob(f"contradiction-{method}-*.npz")}


def check_contradictions(
    found: PerSample, model: nn.Module, x: Tensor, out: Path, method: str, *, seed: int, recipe: str, main: bool = True
) -> None:
    """Raises Contradiction if an attack broke a sample that a theorem certifies.

    Args:
        found: what is known of all samples, of which the first has the number 0.
        model, x: the net and the samples.
        out: folder; each such sample goes to ``contradiction-METHOD-SAMPLE.npz`` there, at most 24 of them.
        method: its name.
        seed: of the attack.
        recipe: its name; empty for a given net.
        main: whether this process writes the files.
    """
    wrong = found.contradicted()
    if not wrong:
        return
    paths = tuple(out / f"contradiction-{method}-{int(found.sample[row])}.npz" for row in list(wrong)[:MOST])
    if main:
        for path, (row, certificate) in zip(paths, wrong.items()):
            _write(path, _content(found, model, x, row, certificate, method, seed, recipe))
    row, certificate = next(iter(wrong.items()))
    by = found.by[row]
    attack = label_of_attack(by.split(ALONG)[0]) + by[len(by.split(ALONG)[0]) :]
    more = f"; {len(wrong)} samples are certified and broken" if len(wrong) > 1 else ""
    sample, proved, broken = int(found.sample[row]), found.proved[certificate][row].item(), found.broken[row].item()
    raise Contradiction(
        f"{method}: sample {sample} is certified by {label_of(certificate)} at ε = {proved:g}, and {attack} broke it "
        f"at ε = {broken:g}: a bound is wrong{more}. {paths[0]} has the image, the adversarial point and the bound. "
        f"Nothing of {method} was written to the results",
        paths,
    )


@torch.no_grad()
def _content(found: PerSample, model: nn.Module, x: Tensor, row: int, certificate: str, method, seed, recipe) -> dict:
    sample = int(found.sample[row])
    image, point = x[sample : sample + 1], found.points[sample].unsqueeze(0)
    clean, adversarial = (model(a.to(x.device).clone())[0].cpu().numpy() for a in (image, point))
    return {
        "x": image[0].cpu().numpy(),
        "adversarial": point[0].numpy(),
        "perturbation": (point.double() - image.cpu().double())[0].numpy(),
        "label": int(found.labels[row]),
        "eps": found.broken[row].item(),
        "certificate": certificate,
        "certified_eps": found.proved[certificate][row].item(),
        "bound": found.bound[certificate][row].item(),
        "attack": found.by[row],
        "seed": seed,
        "logits": clean,
        "adversarial_logits": adversarial,
        "recipe": recipe,
        "method": method,
        "sample": sample,
    }


def _write(path: Path, content: dict) -> None:
    with replacing(path) as f:
        np.savez(f, **{name: np.asarray(value) for name, value in content.items()})

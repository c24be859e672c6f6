"""Measures one method: clean, attacked and certified accuracy, and how often attacks contradict certificates."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from linf_plugin.certificates import certify_each
from linf_plugin.norms import Ball
from linf_plugin.progress import hidden

from ..certificates import BEST, failure_of, norm_named, norm_of
from ..methods.kinds import certificates_of
from ..methods.parts import ATTACKING
from ..recipes.recipe import Recipe
from ..results.schema import Certified, VerificationResult
from .verifying import verified


@dataclass
class Measured:
    """What was measured of one method; ``MethodResult`` describes the fields."""

    clean: float
    attacked: dict[str, dict[float, float]]
    certified: dict[str, Certified]
    contradictions: int = 0
    broken: dict[str, int] | None = None
    certify_seconds: float = 0.0
    attack_seconds: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    verification: VerificationResult | None = None


def evaluate(
    recipe: Recipe,
    key: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    seed: int,
    progress: bool,
    verdicts: Path | None = None,
) -> Measured:
    """Measures a method on the images (x, y).  Accuracies are fractions in [0, 1] of these images, for each ε.

    verdicts: the file in which the verdicts of complete verifiers are kept.
    """
    asked, label = recipe.evaluation, recipe.methods[key].label
    with torch.no_grad():
        clean = torch.cat([model(part).argmax(1) for part in x.split(512)]) == y
    names = [name for name in certificates_of(recipe.methods[key].kind) if name in asked.certificates]
    attacks = {table["name"]: table for table in asked.attacks}
    norm = norm_named(asked.norm)
    certified = {name: Certified(norm_of(name), failure_of(name), {}) for name in names}
    certified[BEST] = Certified(norm, 0.0, {})  # counts theorems only
    found = Measured(_share(clean), {name: {} for name in attacks}, certified, broken={})
    for eps in tqdm(asked.eps_values, desc=f"{label}: certify, attack", disable=hidden(progress), unit="ε"):
        began = time.perf_counter()
        shown = not hidden(progress)
        proofs = certify_each(model, x, y, eps, names, norm=norm, progress=shown, seconds=found.seconds)
        found.certify_seconds += time.perf_counter() - began
        survives = {}
        for name, table in attacks.items():
            began = time.perf_counter()
            survives[name] = ATTACKING.resolve(table, model, x, y, eps, seed=seed)
            taken = time.perf_counter() - began
            found.attack_seconds += taken
            found.seconds[name] = found.seconds.get(name, 0.0) + taken
        for name, proved in proofs.items():
            certified[name].accuracy[eps] = _share(proved)
        for name, kept in survives.items():
            found.attacked[name][eps] = _share(kept)
        contradictions, broken = contradicted(proofs, survives)
        found.contradictions += contradictions
        for name, images in broken.items():
            found.broken[name] = found.broken.get(name, 0) + images
        if eps == recipe.eps:
            certified_there, unbroken = proofs[BEST], torch.stack([clean, *survives.values()]).all(0)
    if asked.verify is not None:
        ball, options = Ball(recipe.eps, norm, 0.0, 1.0), {"kept": verdicts, "progress": progress}
        found.verification = verified(
            asked.verify, model, x, y, ball, certified_there, unbroken, description=f"{label}:", **options
        )
    return found


def _share(images: Tensor) -> float:
    return images.double().mean().item()


def contradicted(proofs: dict[str, Tensor], survives: dict[str, Tensor]) -> tuple[int, dict[str, int]]:
    """Counts the images that a certificate covers and an attack broke, at one ε.

    An attack can contradict only certificates of its own norm.  A contradicted theorem, whose failure probability is
    0, is wrong.  Certificates that may fail are counted separately.

    Args:
        proofs: certificate → (N,) bool, the images that it certifies.
        survives: attack → (N,) bool, the images that are still correct.

    Returns:
        The number of images that any theorem certifies wrongly; and, for each certificate that may fail, its name →
        the number of its images that an attack broke.
    """
    proofs = {name: proved for name, proved in proofs.items() if name != BEST}
    wrong, broken = [], {}
    for norm in {ATTACKING.registry[name].norm for name in survives}:
        kept = torch.stack([kept for name, kept in survives.items() if ATTACKING.registry[name].norm == norm]).all(0)
        for name, proved in proofs.items():
            if norm_of(name) != norm:
                continue
            if failure_of(name) == 0:
                wrong.append(proved & ~kept)
            else:
                broken[name] = int((proved & ~kept).sum())
    return (int(torch.stack(wrong).any(0).sum()) if wrong else 0), broken

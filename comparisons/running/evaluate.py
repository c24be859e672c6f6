"""Measures one method of a recipe: clean, attacked and certified accuracy."""

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from linf_plugin.norms import Ball
from linf_plugin.training.parallel import Ranks

from ..certificates import BEST, failure_of, norm_named, norm_of
from ..methods.kinds import certificates_of
from ..recipes.recipe import Recipe
from ..results.schema import Certified, VerificationResult, with_changes
from .asked import Asked
from .contradiction import check_contradictions
from .exchange import exchanged, failing_together
from .measure import measure
from .per_sample import PerSample, share
from .verifying import verified


@dataclass
class Measured:
    """What was measured of one method; ``MethodResult`` describes the fields."""

    clean: float
    attacked: dict[str, dict[float, float]]
    certified: dict[str, Certified]
    broken: dict[str, int]
    broken_by: dict[str, int]
    certify_seconds: float
    attack_seconds: float
    seconds: dict[str, float] = field(default_factory=dict)
    contradictions: int = 0
    verification: VerificationResult | None = None


def asked_of(recipe: Recipe, key: str, seed: int) -> Asked:
    """Returns what a recipe measures of a method, the headline first."""
    evaluation = recipe.evaluation
    return Asked(
        eps_values=(recipe.eps, *(eps for eps in evaluation.eps_values if eps != recipe.eps)),
        norm=norm_named(evaluation.norm),
        methods=tuple(name for name in certificates_of(recipe.methods[key].kind) if name in evaluation.certificates),
        sound=True,
        attacks=evaluation.attacks,
        seed=seed,
        verify=evaluation.verify,
    )


def evaluate(
    recipe: Recipe,
    key: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    seed: int,
    progress: bool,
    out: Path | None = None,
    ranks: Ranks = Ranks(),
) -> tuple[Measured, PerSample]:
    """Measures a method on the images (x, y), and returns its figures, and what is known of each image.

    Accuracies are fractions in [0, 1] of these images, for each ε.  All processes call it, and all get the figures;
    only the first one asks complete verifiers.

    Args:
        recipe, key: the method.
        model: in evaluation mode, the same on all processes.
        out: the folder of the run, which gets the verdicts of complete verifiers and contradicted images.

    Raises:
        Contradiction: an attack broke an image that a theorem certifies.
        TypeError, ValueError, RuntimeError, ImportError: as ``measure`` and ``verify``.
    """
    asked, label = asked_of(recipe, key, seed), recipe.methods[key].label
    found = measure(model, x, y, asked, ranks=ranks, description=f"{label}:", progress=progress)
    said = with_changes(recipe.name, recipe.changed)
    check_contradictions(found, model, x, out or Path(), key, seed=seed, recipe=said, main=ranks.main)
    figures = _figures(asked, found)
    if asked.verify is not None:
        with failing_together(ranks):
            said = None
            if ranks.main:
                certified, survives = found.best() >= recipe.eps, found.survives(recipe.eps)
                ball, kept = (
                    Ball(recipe.eps, asked.norm, 0.0, 1.0),
                    None if out is None else out / f"{key}.verdicts.jsonl",
                )
                how = {"kept": kept, "description": f"{label}:", "progress": progress}
                said = verified(asked.verify, model, x, y, ball, certified, survives, **how)
            figures.verification = exchanged(ranks, said)[0]
    return figures, found


def _figures(asked: Asked, found: PerSample) -> Measured:
    eps_values, names = sorted(asked.eps_values), [table["name"] for table in asked.attacks]
    proved = {**found.proved, BEST: found.best()}
    seconds = found.certify_seconds()
    return Measured(
        clean=share(found.correct),
        attacked=found.attacked(names, eps_values),
        certified={
            name: Certified(
                asked.norm if name == BEST else norm_of(name),
                0.0 if name == BEST else failure_of(name),
                {eps: share(radii >= eps) for eps in eps_values},
            )
            for name, radii in proved.items()
        },
        broken=found.broken_though_certified(eps_values),
        broken_by=found.broken_by(asked.eps_values[0]),
        certify_seconds=sum(seconds.values()),
        attack_seconds=sum(found.attack_seconds.values()),
        seconds={**seconds, **found.attack_seconds},
    )

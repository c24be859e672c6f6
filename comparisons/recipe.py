"""Recipes: what a run trains and how, as TOML files.  ``recipes/`` holds ours; any path works."""

import tomllib
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path

from linf_plugin.bounds.certify import CERTIFICATES
from linf_plugin.datasets import SOURCES
from linf_plugin.models import ARCHITECTURES
from linf_plugin.training import Schedule

from .methods import LOSSES, METHODS, OPTIMIZERS


@dataclass(frozen=True)
class MethodRecipe:
    """How one method is trained: tables of ``models.ARCHITECTURES``, ``LOSSES``, ``OPTIMIZERS`` arguments.

    architecture, loss, optimizer: {"name": …, arguments…}.  shift: pixels of random shift.  flip: mirror at
    random.  decay: ℓp weight decay of distance layers, in units of the learning rate.  clip: largest norm of
    the gradient.  average: decay a step of an exponential moving average of the weights, from the schedule's
    average_start on; 0 keeps none.  select: part of the training set that is not trained on and chooses the model,
    every ``validate_every`` epochs, among the last weights and their average; 0 keeps the model of the last epoch.

    Raises:
        ValueError: a part, a decay or a number is out of its range.
    """

    architecture: dict
    loss: dict
    optimizer: dict
    schedule: Schedule
    batch_size: int
    shift: int = 0
    flip: bool = False
    decay: float = 0.0
    clip: float = 0.0
    average: float = 0.0
    select: float = 0.0
    validate_every: int = 1

    def __post_init__(self):
        for name in ("average", "select"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.validate_every < 1:
            raise ValueError(f"validate_every must be at least 1, got {self.validate_every}")


@dataclass(frozen=True)
class Recipe:
    """One comparison.  ε in units of the pixel range: ``eps`` is the headline, ``eps_values`` the curve."""

    name: str
    description: str
    dataset: str
    eps: float
    eps_values: tuple[float, ...]
    certificates: tuple[str, ...]
    attack: dict
    methods: dict[str, MethodRecipe]


def available() -> dict[str, Path]:
    """The recipes that come with the package."""
    folder = Path(str(files("comparisons") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _build(kind: type, table: dict, where: str):
    """A dataclass from a TOML table; lists become tuples.  Unknown or missing keys raise ValueError."""
    names = {f.name for f in fields(kind)}
    unknown = [key for key in table if key not in names]
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(names))}")
    try:
        return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in table.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _check_named(table: dict | None, registry: dict, where: str) -> None:
    if not isinstance(table, dict) or table.get("name") not in registry:
        raise ValueError(f"{where} needs a name among {', '.join(registry)}")


def load_recipe(name: str) -> Recipe:
    """A recipe by name, or from the path of a TOML file.

    Raises:
        FileNotFoundError: there is neither a recipe nor a file of that name.
        ValueError: the file is not valid; the message says where.
    """
    path = available().get(name, Path(name))
    if not path.is_file():
        raise FileNotFoundError(f"no recipe or file {name!r}; recipes: {', '.join(available())}")
    try:
        table = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    methods = {}
    for key, method in table.get("methods", {}).items():
        where = f"{path.name} [methods.{key}]"
        if key not in METHODS:
            raise ValueError(f"{where}: unknown method; known: {', '.join(METHODS)}")
        for part, registry in (("architecture", ARCHITECTURES), ("loss", LOSSES), ("optimizer", OPTIMIZERS)):
            _check_named(method.get(part), registry, f"{where}: {part}")
        schedule = _build(Schedule, method.get("schedule", {}), f"{where} schedule")
        methods[key] = _build(MethodRecipe, {**method, "schedule": schedule}, where)
    if not methods:
        raise ValueError(f"{path.name}: no [methods.…] table")
    recipe = _build(Recipe, {**table, "name": path.stem, "methods": methods}, path.name)
    if recipe.dataset not in SOURCES:
        raise ValueError(f"{path.name}: dataset must be one of {', '.join(SOURCES)}, got {recipe.dataset!r}")
    if not set(recipe.certificates) <= set(CERTIFICATES):
        raise ValueError(f"{path.name}: certificates must be among {', '.join(CERTIFICATES)}")
    if recipe.eps not in recipe.eps_values or not all(0 <= e <= 1 for e in recipe.eps_values):
        raise ValueError(f"{path.name}: eps_values must lie in [0, 1] and contain eps={recipe.eps}")
    return recipe

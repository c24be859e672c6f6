"""Recipes: what a run trains and how, as TOML files.  ``recipes/`` holds ours; any path works."""

import inspect
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import NoneType
from typing import get_args

from linf_plugin import plain
from linf_plugin.certificates.cascade import CERTIFICATES
from linf_plugin.datasets import SOURCES
from linf_plugin.models.architectures import ARCHITECTURES
from linf_plugin.models.spec import MOST_LAYERS
from linf_plugin.plain import shown
from linf_plugin.training import Schedule
from linf_plugin.training.augment import PADDINGS

from .attacks.pgd import pgd_survives
from .methods.kinds import METHODS
from .methods.losses import LOSSES
from .methods.optimizers import OPTIMIZERS

DEEPEST = 1000  # brackets in a file, those in comments included


@dataclass(frozen=True)
class MethodRecipe:
    """How one method is trained: tables of ``models.ARCHITECTURES``, ``LOSSES``, ``OPTIMIZERS`` arguments.

    architecture, loss, optimizer: {"name": …, arguments…}.  shift: pixels of random shift, of ``shift_share`` of
    the images.  padding: what moves in, "edge" or "zero".  flip: mirror at random.  decay: ℓp weight decay of
    distance layers, in units of the learning rate.  clip: largest norm of the gradient.  average: decay a step of
    an exponential moving average of the weights, from the schedule's average_start on; 0 keeps none.  select: part
    of the training set that is not trained on and chooses the model, every ``validate_every`` epochs, among the
    last weights and their average; 0 keeps the model of the last epoch.

    Raises:
        ValueError: a part, a decay or a number is out of its range.
    """

    architecture: dict
    loss: dict
    optimizer: dict
    schedule: Schedule
    batch_size: int
    shift: int = 0
    shift_share: float = 1.0
    padding: str = "edge"
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
    """One comparison.  ε in units of the pixel range: ``eps`` is the headline, ``eps_values`` the curve.

    In a file an ε is a number or a fraction in quotes: 0.1 or "8/255".  What the methods have in common may stand
    once, in a table ``[defaults]``: a method takes from there each key, and in its tables each entry, that it does
    not have.
    """

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


def _eps(value, where: str) -> float:
    """The float nearest to a number or to a fraction such as "8/255"."""
    try:
        if isinstance(value, str):
            eps = plain.fraction(value)
        elif _is_number(value):
            eps = float(value)
        else:
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f'{where} must be a number or a fraction in quotes, "8/255", got {shown(value)}') from None
    if not 0 <= eps <= 1:
        raise ValueError(f"{where} must lie in the pixel range [0, 1], got {shown(value)}")
    return eps


def _is_number(value) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _list_of(check: Callable) -> Callable:
    return lambda value: isinstance(value, list) and all(check(v) for v in value)


# Type of an argument → what a file must have for it: in words, and as a check
KINDS = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    str: ("a string", lambda value: isinstance(value, str)),
    dict: ("a table", lambda value: isinstance(value, dict)),
    int: ("a whole number ≥ 1", lambda value: _is_whole(value) and 1 <= value < 2**63),
    float: ("a number ≥ 0", lambda value: _is_number(value) and value >= 0),
    tuple[int, ...]: ("a list of whole numbers ≥ 1", _list_of(lambda value: _is_whole(value) and value >= 1)),
    tuple[float, ...]: ("a list of numbers ≥ 0", _list_of(lambda value: _is_number(value) and value >= 0)),
    tuple[str, ...]: ("a list of strings", _list_of(lambda value: isinstance(value, str))),
}
WHOLE_OR_0 = ("a whole number ≥ 0", lambda value: _is_whole(value) and 0 <= value < 2**63)  # where 0 is the default


def _kind(parameter: inspect.Parameter) -> tuple[str, Callable]:
    kind = parameter.annotation
    if NoneType in get_args(kind):  # may be left out
        (kind,) = (k for k in get_args(kind) if k is not NoneType)
    return WHOLE_OR_0 if kind is int and parameter.default == 0 else KINDS[kind]


def _arguments(table: dict, function: Callable, where: str, given: tuple[str, ...] = ()) -> dict:
    """The table as arguments of ``function`` besides those ``given`` by the runner; lists become tuples.

    Raises ValueError for what is unknown, missing or of another type than the function's.
    """
    known = {name: p for name, p in inspect.signature(function).parameters.items() if name not in given}
    for key, value in table.items():
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; known: {', '.join(sorted(known))}")
        words, fits = _kind(known[key])
        if not fits(value):
            raise ValueError(f"{where}: {key} must be {words}, got {shown(value)}")
    missing = [name for name, p in known.items() if p.default is p.empty and name not in table]
    if missing:
        raise ValueError(f"{where}: {missing[0]} is missing")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def _named(method: dict, key: str, registry: dict, where: str, given: tuple[str, ...]) -> None:
    """Checks {"name": …, arguments…} against the function of that name."""
    table = method.get(key)
    if not isinstance(table, dict) or not isinstance(table.get("name"), str) or table["name"] not in registry:
        raise ValueError(f"{where}: {key} needs a name among {', '.join(registry)}")
    arguments = {k: v for k, v in table.items() if k != "name"}
    _arguments(arguments, registry[table["name"]], f"{where} {key} {table['name']!r}", given)


def with_defaults(method: dict, defaults: dict) -> dict:
    """A method's table with what ``[defaults]`` says and it does not."""
    both = {key for key in method.keys() & defaults.keys() if isinstance(method[key], dict)}
    tables = {key: {**defaults[key], **method[key]} for key in both if isinstance(defaults[key], dict)}
    return {**defaults, **method, **tables}


def _method(table: dict, where: str) -> MethodRecipe:
    known = inspect.signature(MethodRecipe).parameters
    for key in table:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; known: {', '.join(sorted(known))}")
    _named(table, "architecture", ARCHITECTURES, where, ("shape", "classes", "mean", "std"))
    _named(table, "loss", LOSSES, where, ("model", "schedule"))
    _named(table, "optimizer", OPTIMIZERS, where, ("model", "loss"))
    schedule = table.get("schedule", {})
    if not isinstance(schedule, dict):
        raise ValueError(f"{where}: schedule must be a table, got {shown(schedule)}")
    if "eps" in schedule:
        schedule = {**schedule, "eps": _eps(schedule["eps"], f"{where} schedule: eps")}
    schedule = _arguments(schedule, Schedule, f"{where} schedule")
    rest = {key: value for key, value in table.items() if key != "schedule"}
    arguments = _arguments(rest, MethodRecipe, where, given=("schedule",))
    if arguments.get("padding", "edge") not in PADDINGS:
        raise ValueError(f"{where}: padding must be one of {', '.join(PADDINGS)}, got {shown(arguments['padding'])}")
    try:
        architecture = dict(table["architecture"])
        spec_of = ARCHITECTURES[architecture.pop("name")]
        if architecture.get("depth", 1) > MOST_LAYERS:
            raise ValueError(f"depth must be at most {MOST_LAYERS:,}, got {shown(architecture['depth'])}")
        spec_of(shape=(1, 64, 64), classes=2, **architecture)  # the spec of a net, not the net
        return MethodRecipe(**arguments, schedule=Schedule(**schedule))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def load_recipe(name: str) -> Recipe:
    """A recipe by name, or from the path of a TOML file.

    Raises:
        FileNotFoundError: there is neither a recipe nor a file of that name.
        ValueError: the file is not valid; the message says where.
    """
    path, table = read_toml(name)
    return recipe_from(path.stem, path.name, table)


def read_toml(name: str) -> tuple[Path, dict]:
    """The path of a recipe, given as to ``load_recipe``, and what stands in it.  Raises as that does."""
    path = available().get(name, Path(name))
    if not path.is_file():
        raise FileNotFoundError(f"no recipe or file {name!r}; recipes: {', '.join(available())}")
    try:
        text = path.read_text(encoding="utf-8")
        plain.check_nesting(text, DEEPEST)
        return path, tomllib.loads(text)
    except ValueError as error:  # of TOML, of UTF-8, or of an integer with thousands of digits
        raise ValueError(f"{path} is not valid TOML: {error}") from error


def recipe_from(name: str, where: str, table: dict) -> Recipe:
    """A recipe from the contents of a TOML file; messages begin with ``where``.  Raises ValueError."""
    known = {*inspect.signature(Recipe).parameters, "defaults"} - {"name"}
    for key in table:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; known: {', '.join(sorted(known))}")
    table = dict(table)
    defaults, methods = table.pop("defaults", {}), table.pop("methods", {})
    for key, value in (("defaults", defaults), ("methods", methods)):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: {key} must be a table, got {shown(value)}")
    if "eps" in table:
        table["eps"] = _eps(table["eps"], f"{where}: eps")
    if isinstance(table.get("eps_values"), list):
        table["eps_values"] = [_eps(value, f"{where}: eps_values") for value in table["eps_values"]]
    arguments = _arguments(table, Recipe, where, given=("name", "methods"))
    _arguments(table["attack"], pgd_survives, f"{where} attack", given=("model", "x", "labels", "eps", "seed"))
    if table["dataset"] not in SOURCES:
        raise ValueError(f"{where}: dataset must be one of {', '.join(SOURCES)}, got {shown(table['dataset'])}")
    if not set(table["certificates"]) <= set(CERTIFICATES):
        raise ValueError(f"{where}: certificates must be among {', '.join(CERTIFICATES)}, got {table['certificates']}")
    if table["eps"] not in table["eps_values"]:
        raise ValueError(f"{where}: eps_values must contain eps={table['eps']}, got {table['eps_values']}")
    if not methods:
        raise ValueError(f"{where}: no [methods.…] table")
    built = {}
    for key, method in methods.items():
        if key not in METHODS:
            raise ValueError(f"{where} [methods.{key}]: unknown method; known: {', '.join(METHODS)}")
        if not isinstance(method, dict):
            raise ValueError(f"{where}: methods.{key} must be a table, got {shown(method)}")
        if not set(METHODS[key].certificates) & set(table["certificates"]):
            raise ValueError(
                f"{where}: none of the certificates applies to {key}, only {', '.join(METHODS[key].certificates)}"
            )
        built[key] = _method(with_defaults(method, defaults), f"{where} [methods.{key}]")
    return Recipe(name=name, methods=built, **arguments)

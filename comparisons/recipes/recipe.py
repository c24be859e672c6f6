"""Reads recipes: TOML files that say what a run trains and how.  ``recipes/`` holds ours; any path works."""

import inspect
import math
import os
import re
import tomllib
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from linf_plugin import plain
from linf_plugin.datasets import SOURCES
from linf_plugin.datasets.load import KINDS
from linf_plugin.models.spec import MOST_LAYERS
from linf_plugin.plain import shown
from linf_plugin.training import Schedule

from .. import certificates
from ..attacks.attack import ATTACKS, of_norm
from ..methods.kinds import METHODS, certificates_of, label_of
from ..methods.parts import ATTACKING, PARTS
from ..verifiers.request import Request
from . import toml_arguments
from .short_forms import ATTACK, OF_AUGMENTATION, OF_EVALUATION, long_method, long_recipe, named
from .toml_arguments import arguments, check_named, known_keys, parameters

DEEPEST = 1000  # most brackets in a file, including those in comments
OF_HARNESS = ("name", "folder", "changed")  # fields of a recipe that no file gives
BUILT_IN = frozenset(PARTS["architecture"].registry)  # before anybody adds a row
NAME = re.compile(r"[\w-]{1,60}")  # a method's name, which also names files


@dataclass(frozen=True)
class MethodRecipe:
    """How one method is trained.

    kind: a row of ``METHODS``.  label: its name in tables.  architecture, initialisation, augmentation, loss,
    optimizer: {"name": …, arguments…}; ``PARTS`` has their registries.  decay: ℓp weight decay of distance layers, in
    units of the learning rate.  clip: largest norm of the gradient.  average: decay per step of an exponential moving
    average of the weights; the schedule's average_start says when it begins; 0 keeps no average.  select: part of the
    training set that is kept out of training; every ``validate_every`` epochs it chooses among the current weights
    and their average; 0 keeps the model of the last epoch.  trials: among how many trainings the
    settings were chosen, on held-out images; tables show it, and it changes no figure; None is not known.

    A new field needs a default that trains as before: files of earlier versions lack the field, and mean its default.

    Raises:
        ValueError: average, select, validate_every or trials is out of its range.
    """

    kind: str
    label: str
    architecture: dict
    loss: dict
    optimizer: dict
    schedule: Schedule
    batch_size: int
    initialisation: dict = field(default_factory=lambda: {"name": "default"})
    augmentation: dict = field(default_factory=lambda: {"name": "none"})
    decay: float = 0.0
    clip: float = 0.0
    average: float = 0.0
    select: float = 0.0
    validate_every: int = 1
    trials: int | None = None

    def __post_init__(self):
        for name in ("average", "select"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.validate_every < 1:
            raise ValueError(f"validate_every must be at least 1, got {self.validate_every}")
        if self.trials is not None and self.trials < 1:
            raise ValueError(f"trials must be at least 1, got {self.trials}")


@dataclass(frozen=True)
class Evaluation:
    """What is measured of each method.

    eps_values: the radii of the balls.  norm: the name of their norm.  certificates: names.  attacks: tables
    {"name": …, arguments…}, each of a row of ``ATTACKS``.  verify: what complete verifiers are asked, at the headline
    ε; None asks none.
    """

    eps_values: tuple[float, ...]
    certificates: tuple[str, ...]
    attacks: tuple[dict, ...]
    norm: str = "linf"
    verify: Request | None = None


@dataclass(frozen=True)
class Recipe:
    """One comparison.  ε is in units of the pixel range: ``eps`` is the headline, the evaluation has the curve.
    The evaluation also has the norm of the balls.

    dataset: a name of ``SOURCES``, or the path of an .npz file or of a folder of images.  folder: of the recipe's file;
    a path in ``dataset`` is relative to it.  changed: the settings that differ from those of the file, as lines of
    TOML.

    In a file an ε is a number or a fraction in quotes: 0.1 or "8/255".  A table ``[defaults]`` may hold what the
    methods have in common.  A method takes from it each key that the method lacks, and for each of its tables each
    entry that the table lacks.  It takes nothing from a table that has another name.
    """

    name: str
    description: str
    dataset: str
    eps: float
    evaluation: Evaluation
    methods: dict[str, MethodRecipe]
    folder: str | Path = field(default="", compare=False)
    changed: tuple[str, ...] = field(default=(), compare=False)

    @property
    def data(self) -> str | Path:
        """What ``load_dataset`` takes: the known name, or the path of your own data."""
        return self.dataset if self.dataset in SOURCES else Path(self.folder, self.dataset)


def available() -> dict[str, Path]:
    """Returns the recipes that come with the package: name → path."""
    folder = Path(str(files("comparisons") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(name: str) -> Recipe:
    """Returns a recipe, given its name or the path of a TOML file.

    Raises:
        FileNotFoundError: no recipe and no file has that name.
        ValueError: the file is not valid; the message says where.
    """
    path, table = read_toml(name)
    return recipe_from(path.stem, path.name, table, path.parent)


def read_toml(name: str) -> tuple[Path, dict]:
    """Returns the path and the content of a recipe.  Takes the argument of ``load_recipe``, and raises its errors."""
    path = available().get(name, Path(name))
    if not path.is_file():
        raise FileNotFoundError(f"no recipe or file {name!r}; recipes: {', '.join(available())}")
    try:
        text = path.read_text(encoding="utf-8")
        plain.check_nesting(text, DEEPEST)
        return path, tomllib.loads(text)
    except ValueError as error:  # wrong TOML, wrong UTF-8, or an integer with thousands of digits
        raise ValueError(f"{path} is not valid TOML: {error}") from error


def recipe_from(name: str, where: str, table: dict, folder: str | Path = "", changed: tuple[str, ...] = ()) -> Recipe:
    """Returns a recipe from the content of a TOML file in ``folder``.  changed: as in ``Recipe``.

    Raises:
        ValueError: the content is wrong; the message begins with ``where``.
    """
    known_keys(table, {*parameters(Recipe, given=OF_HARNESS), "defaults", ATTACK, *OF_EVALUATION}, where)
    table = dict(table)
    defaults, methods = table.pop("defaults", {}), table.pop("methods", {})
    tables = {"defaults": defaults, "methods": methods, **{k: table.get(k, {}) for k in (ATTACK, "evaluation")}}
    for key, value in tables.items():
        if not isinstance(value, dict):
            raise ValueError(f"{where}: {key} must be a table, got {shown(value)}")
    table = long_recipe(table, where)
    evaluation = table.pop("evaluation", {})
    most = certificates.largest_eps(evaluation.get("norm", "linf"))
    if "eps" in table:
        table["eps"] = toml_arguments.eps(table["eps"], f"{where}: eps", most)
    said = arguments(table, parameters(Recipe, given=(*OF_HARNESS, "evaluation", "methods")), where)
    dataset = said["dataset"]
    if dataset not in SOURCES and not dataset.endswith(".npz") and not os.path.isdir(Path(folder, dataset)):
        raise ValueError(
            f"{where}: dataset must be one of {KINDS}; a path is relative to the recipe; got {shown(dataset)}"
        )
    evaluation = _evaluation(evaluation, said["eps"], most, where)
    if not methods:
        raise ValueError(f"{where}: no [methods.…] table")
    defaults = named(long_method(defaults, f"{where} [defaults]"))
    built = {}
    for key, method in methods.items():
        if not isinstance(method, dict):
            raise ValueError(f"{where}: methods.{key} must be a table, got {shown(method)}")
        here = f"{where} [methods.{key}]"
        built[key] = _method(with_defaults(named(long_method(method, here)), defaults), key, here)
        applies = certificates.of_norm(certificates_of(built[key].kind), certificates.norm_named(evaluation.norm))
        if not set(applies) & set(evaluation.certificates):
            words = ", ".join(applies)
            raise ValueError(f"{where}: none of the certificates applies to {key}, only {words}")
    labels = [method.label for method in built.values()]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"{where}: two methods have the label {shown(twice[0])}")
    return Recipe(name=name, evaluation=evaluation, methods=built, folder=folder, changed=changed, **said)


def with_defaults(method: dict, defaults: dict) -> dict:
    """Returns a method's table, with the values of ``[defaults]`` for what the table does not say."""

    def merge(ours, theirs):
        tables = isinstance(ours, dict) and isinstance(theirs, dict)
        same = tables and ours.get("name", theirs.get("name")) == theirs.get("name", ours.get("name"))
        return {**theirs, **ours} if same else ours

    return {**defaults, **{key: merge(value, defaults.get(key)) for key, value in method.items()}}


def _evaluation(table: dict, eps: float, most: float, where: str) -> Evaluation:
    if isinstance(table.get("eps_values"), list):
        values = [toml_arguments.eps(value, f"{where}: eps_values", most) for value in table["eps_values"]]
        table = {**table, "eps_values": values}
    request = _request(table["verify"], where) if "verify" in table else None
    rest = {key: value for key, value in table.items() if key != "verify"}
    found = Evaluation(**arguments(rest, parameters(Evaluation, given=("verify",)), where), verify=request)
    norms = {certificates.name_of_norm(attack.norm) for attack in ATTACKS.values()}
    if found.norm not in norms:
        raise ValueError(f"{where}: norm must be one of {', '.join(sorted(norms))}, got {shown(found.norm)}")
    known, norm = certificates.names(), certificates.norm_named(found.norm)
    if not set(found.certificates) <= set(known):
        raise ValueError(f"{where}: certificates must be among {', '.join(known)}, got {shown(found.certificates)}")
    for name in found.certificates:
        if certificates.norm_of(name) != norm:
            proper = ", ".join(certificates.of_norm(known, norm))
            words = f"{where}: {name} does not certify balls of the norm {found.norm}"
            raise ValueError(f"{words}; those that do: {proper}" if proper else words)
    if eps not in found.eps_values:
        raise ValueError(f"{where}: eps_values must contain eps={eps}, got {shown(found.eps_values)}")
    if found.verify is not None and norm != math.inf:
        raise ValueError(f"{where}: complete verifiers take balls of the norm linf only, got norm = {found.norm}")
    for attack in found.attacks:
        check_named(attack, "attack", ATTACKING, where)
        moves, name = ATTACKS[attack["name"]].norm, attack["name"]
        if moves != norm:
            symbols = [certificates.symbol_of_norm(each) for each in (moves, norm)]
            raise ValueError(
                f"{where}: the attack {name} moves samples in {symbols[0]}, and the balls of the recipe are those of "
                f"{symbols[1]}; attacks in {symbols[1]}: {', '.join(of_norm(norm))}"
            )
    if len({attack["name"] for attack in found.attacks}) != max(1, len(found.attacks)):
        raise ValueError(f"{where}: attacks must have at least one, and none twice, got {shown(found.attacks)}")
    return found


def _request(table: dict, where: str) -> Request:
    if not isinstance(table, dict):
        raise ValueError(f"{where}: verify must be a table, got {shown(table)}")
    where = f"{where} [verify]"
    given = arguments(table, parameters(Request), where)
    try:
        return Request(**given)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _method(table: dict, name: str, where: str) -> MethodRecipe:
    known_keys(table, {*parameters(MethodRecipe), *OF_AUGMENTATION}, where)
    kind, label = _kind_and_label(table, name, where)
    for key, part in PARTS.items():
        if key in table or parameters(MethodRecipe)[key].default is inspect.Parameter.empty:
            check_named(table.get(key), key, part, where)
    schedule = table.get("schedule", {})
    if not isinstance(schedule, dict):
        raise ValueError(f"{where}: schedule must be a table, got {shown(schedule)}")
    if "eps" in schedule:
        schedule = {**schedule, "eps": toml_arguments.eps(schedule["eps"], f"{where} schedule: eps")}
    schedule = arguments(schedule, parameters(Schedule), f"{where} schedule")
    apart = ("kind", "label", "schedule")
    rest = {key: value for key, value in table.items() if key not in apart}
    rest = arguments(rest, parameters(MethodRecipe, given=apart), where)
    try:
        _check_parts(table)
        return MethodRecipe(kind=kind, label=label, schedule=Schedule(**schedule), **rest)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _kind_and_label(table: dict, name: str, where: str) -> tuple[str, str]:
    if not NAME.fullmatch(name):
        raise ValueError(f"{where}: a method's name has letters, digits, - and _ only, 60 at most")
    if "kind" not in table and name not in METHODS:
        raise ValueError(
            f"{where}: unknown method; known: {', '.join(METHODS)}. A name of your own needs one of these kinds"
        )
    kind, label = table.get("kind", name), table.get("label")
    if not isinstance(kind, str) or kind not in METHODS:
        raise ValueError(f"{where}: kind must be one of {', '.join(METHODS)}, got {shown(kind)}")
    if name in METHODS and name != kind:
        raise ValueError(f"{where}: {name} is a kind itself; a method of kind {kind} needs another name")
    if label is not None and not (
        isinstance(label, str) and label.isprintable() and label.strip() and "|" not in label
    ):
        raise ValueError(f"{where}: label must be a string of one line without |, got {shown(label)}")
    return kind, label_of(name, kind) if label is None else label


def _check_parts(table: dict) -> None:
    """Resolves the parts that need neither data nor a net.  Raises ValueError if arguments contradict each other."""
    architecture = dict(table["architecture"])
    if architecture.get("depth", 1) > MOST_LAYERS:
        raise ValueError(f"depth must be at most {MOST_LAYERS:,}, got {shown(architecture['depth'])}")
    if architecture["name"] in BUILT_IN:  # makes the spec of a net, not the net
        PARTS["architecture"].resolve(architecture, shape=(1, 64, 64), classes=2)
    if "augmentation" in table:
        PARTS["augmentation"].resolve(table["augmentation"])

"""A recipe with some of its settings changed: ``methods.ibp.schedule.epochs=5`` stands for a line of its file.

The changed settings stay with the recipe, and go into the identity of its results.
"""

import copy
import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import fields

from linf_plugin import plain
from linf_plugin.plain import shown
from linf_plugin.training import Schedule

from .recipe import DEEPEST, Recipe, load_recipe, read_toml, recipe_from

FRACTION = re.compile(r"\s*\d+\s*/\s*\d+\s*")  # a text that needs no quotes: 8/255
EPOCHS = "epochs"
LONGEST = 60  # letters of changed settings in the name of a folder
Keys = tuple[str | int, ...]


def load_varied(name: str, settings: Sequence[str] = (), epochs: int | None = None) -> Recipe:
    """Returns a recipe with changed settings.

    A schedule whose ``epochs`` change keeps its course: its other times change in proportion, as for a budget
    (``Schedule.scaled``), except for those that ``settings`` name.

    Args:
        name: of a recipe, or the path of a TOML file.
        settings: texts "PATH=VALUE", applied in order.  PATH has the keys of the file with dots between them, and
            the numbers of entries of a list; VALUE is TOML, or a fraction without quotes.  The path "epochs" means
            those of all methods.
        epochs: the epochs of all methods for which ``settings`` give no other number.

    Raises:
        FileNotFoundError, ValueError: as ``load_recipe``; a path is wrong, and the message says what the recipe has
            at that place; a value does not fit; or a setting has no effect.
    """
    recipe = load_recipe(name)
    changes = dict(map(_change, settings))
    if epochs is not None:
        changes = {(EPOCHS,): epochs, **changes}
    if not changes:
        return recipe
    path, table = read_toml(name)
    words = {keys: _words(keys, value) for keys, value in changes.items()}
    where = f"{path.name} with {', '.join(words.values())}"

    def build(some: dict) -> Recipe:
        varied = copy.deepcopy(table)
        for keys, value in some.items():
            _put(varied, keys, value, recipe)
        _keep_course(varied, some, recipe)
        return recipe_from(path.stem, where, varied, path.parent, tuple(words[keys] for keys in some))

    found = build(changes)
    kept = {keys: value for keys, value in changes.items() if _acts(build, changes, keys, found, table, words[keys])}
    return found if len(kept) == len(changes) else build(kept) if kept else recipe


def _acts(build, changes: dict, keys: Keys, found: Recipe, table: dict, words: str) -> bool:
    """Returns whether a change has an effect.  Raises ValueError if it has none and the file says something else."""
    try:
        same = build({k: value for k, value in changes.items() if k != keys}) == found
    except ValueError:  # the other changes need this one
        return True
    if same and keys != (EPOCHS,) and _value_at(table, keys) != changes[keys]:
        raise ValueError(f"{words} changes nothing: the methods have their own values there")
    if same and keys == (EPOCHS,) and len(changes) > 1:
        raise ValueError(f"{words} changes nothing: the other settings give the epochs of every method")
    return not same


def _change(text: str) -> tuple[Keys, object]:
    """Reads PATH=VALUE."""
    path, equals, value = text.partition("=")
    try:
        keys, table = [], tomllib.loads(f"{path}=0")
        while isinstance(table, dict):
            ((key, table),) = table.items()
            keys.append(key)
    except ValueError:
        keys = []
    if not equals or not keys:
        raise ValueError(f"a changed setting must be PATH=VALUE, such as methods.ibp.batch_size=64, got {text!r}")
    if FRACTION.fullmatch(value):
        return tuple(keys), value.strip()
    try:
        plain.check_nesting(value, DEEPEST)
        content = tomllib.loads(f"value={value}")
    except ValueError:
        content = {}
    if content.keys() != {"value"}:
        raise ValueError(
            f"{text!r}: the value must be TOML: 5, 0.1, true, [1, 2], or a text in double quotes, "
            f"""which a shell keeps within single ones: {path}='"text"'"""
        )
    return tuple(keys), content["value"]


def _words(keys: Keys, value) -> str:
    return f"{'.'.join(map(str, keys))} = {_toml(value)}"


def _toml(value) -> str:
    """Writes a value as TOML does."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=str)


def _put(table: dict, keys: Keys, value, recipe: Recipe) -> None:
    """Sets one value in the content of a file.  Raises ValueError if the path leads through something else."""
    if keys == (EPOCHS,):
        for key in recipe.methods:
            _put(table, ("methods", key, "schedule", EPOCHS), value, recipe)
        return
    here, text = table, ".".join(map(str, keys))
    if keys[0] == "methods" and len(keys) > 1 and keys[1] not in recipe.methods:
        raise ValueError(f"{text}: methods has {', '.join(recipe.methods)}, not {shown(keys[1])}")
    for i, key in enumerate(keys):
        place = ".".join(map(str, keys[:i])) or "the recipe"
        if isinstance(here, list):
            if not str(key).isdecimal() or int(key) >= len(here):
                has = f"entries 0 to {len(here) - 1}" if here else "no entries"
                raise ValueError(f"{text}: {place} is a list with {has}, not {shown(key)}")
            key = int(key)
        elif not isinstance(here, dict):
            raise ValueError(f"{text}: {place} is no table but {_toml(here)}")
        if i == len(keys) - 1:
            here[key] = value
        else:
            here = here[key] if isinstance(here, list) else here.setdefault(key, {})


def _value_at(table, keys: Keys):
    for key in keys:
        if isinstance(table, list) and str(key).isdecimal() and int(key) < len(table):
            table = table[int(key)]
        elif isinstance(table, dict) and key in table:
            table = table[key]
        else:
            return None
    return table


def _keep_course(table: dict, changes: dict, recipe: Recipe) -> None:
    """Scales the times of schedules whose epochs change, except for the times that changes name."""
    own: dict[str, set] = {key: set() for key in recipe.methods}
    for keys in changes:
        for key in recipe.methods:
            if keys == (EPOCHS,) or keys[:-1] in (("methods", key, "schedule"), ("defaults", "schedule")):
                own[key].add(keys[-1])
    for key, method in recipe.methods.items():
        epochs = _value_at(table, ("methods", key, "schedule", EPOCHS))
        if epochs is None:
            epochs = _value_at(table, ("defaults", "schedule", EPOCHS))
        if EPOCHS not in own[key] or type(epochs) is not int or epochs < 1:  # the checks of recipes refuse the rest
            continue
        scaled = method.schedule.scaled(epochs)
        for field in fields(Schedule):
            value = getattr(scaled, field.name)
            if field.name not in own[key] and value != getattr(method.schedule, field.name):
                value = list(value) if isinstance(value, tuple) else value
                _put(table, ("methods", key, "schedule", field.name), value, recipe)


def folder_of(recipe: Recipe) -> str:
    """Returns a name for the folder of a recipe's results, which tells its changed settings."""
    said = re.sub(r"[^\w.]+", "-", "-".join(line.removeprefix("methods.") for line in recipe.changed)).strip("-.")
    if len(said) > LONGEST:
        said = f"{said[:LONGEST]}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"
    return f"{recipe.name}-{said}" if said else recipe.name

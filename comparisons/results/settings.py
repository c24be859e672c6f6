"""The settings that must agree for results to be kept: all that a recipe says about a method.

They are compared after defaults are filled in.  A new field or argument of a recipe has a default.  Settings of earlier
versions lack it, and mean that default.  So they agree with settings of today that do not use it.
"""

import contextlib
import dataclasses
import json

from linf_plugin.training import Schedule, state

from ..methods.parts import ATTACKING, PARTS
from ..recipes.recipe import Evaluation, MethodRecipe, Recipe
from ..recipes.short_forms import SHIFT_FLIP, long_method, long_recipe, named
from ..verifiers.request import Request

NOT_COMPARED = ("label", "trials")  # they change no figure
SHOWN = 5  # most differences that a message lists


def plain_data(value):
    return json.loads(json.dumps(value))


def settings_of(recipe: Recipe, key: str) -> dict:
    """Returns all that the recipe says about a method and that changes figures, as plain data with every default."""
    return filled(said(recipe, key), key)


def said(recipe: Recipe, key: str) -> dict:
    """Returns the same as ``settings_of``, but leaves tables with a name as the file has them, without defaults."""
    method = dataclasses.asdict(recipe.methods[key])
    for key in NOT_COMPARED:
        del method[key]
    return plain_data(
        {
            "name": recipe.name,
            "dataset": recipe.dataset,
            "eps": recipe.eps,
            "evaluation": dataclasses.asdict(recipe.evaluation),
            "method": method,
        }
    )


def filled(settings: dict, key: str) -> dict:
    """Returns settings of this or an earlier version with every default of today.

    key: the name of the method.  It is also the kind if the settings name none.
    """
    rest = {name: value for name, value in settings.items() if name != "methods"}
    method = settings.get("method", settings.get("methods", {}))  # earlier versions wrote it under "methods"
    recipe, method = long_recipe(rest, "settings"), named(long_method(method, "settings"))
    evaluation, schedule = recipe.get("evaluation", {}), method.get("schedule", {})
    evaluation = {**_defaults(Evaluation), **evaluation}
    if evaluation["verify"] is not None:
        evaluation["verify"] = {**_defaults(Request), **evaluation["verify"]}
    evaluation["attacks"] = [ATTACKING.filled(attack) for attack in evaluation.get("attacks", ())]
    method = {"kind": key, **_defaults(MethodRecipe), **method, "schedule": {**_defaults(Schedule), **schedule}}
    for name in NOT_COMPARED:
        method.pop(name, None)
    method |= {name: part.filled(method[name]) for name, part in PARTS.items() if name in method}
    if method["augmentation"] == PARTS["augmentation"].filled({"name": SHIFT_FLIP}):
        method["augmentation"] = {"name": "none"}  # these shifts move nothing
    return plain_data({**recipe, "evaluation": evaluation, "method": method})


def _defaults(kind: type) -> dict:
    found = {}
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found


def settings_changes(theirs: dict, recipe: Recipe, key: str) -> list[str]:
    """Returns how the settings in a file differ from a recipe's.  The file may be of any version, or hold nonsense."""
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):  # nonsense is compared as it is
        theirs = filled(theirs, key)
    return changes(theirs, settings_of(recipe, key))


def changes(old, new) -> list[str]:
    """Returns the differences in plain data, as lines such as "clip: 10 → 11"."""
    found = state.differing(old, new)
    return [f"{name.removeprefix('method.')}: {state.shown(a)} → {state.shown(b)}" for name, a, b in found]


def few(lines: list[str]) -> str:
    """Joins the first lines for a message."""
    return ", ".join(lines[:SHOWN]) + (", …" if len(lines) > SHOWN else "")

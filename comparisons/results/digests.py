"""Digests of settings, by which results are compared that have no settings in them.

They are over settings in the flat form of versions before schema 2, whose tables are as the file has them, so that they
are today what they were then.  What that form does not know is added where it is not the default: a new field leaves
the digests of all recipes that do not use it as they are.
"""

import hashlib
import json

from linf_plugin.training import state

from ..methods.parts import arguments_of
from ..recipes.recipe import Recipe
from ..recipes.short_forms import PGD
from .settings import filled, said, settings_of

METHOD = ("architecture", "loss", "optimizer", "batch_size", "decay", "clip", "average", "select", "validate_every")
SHIFT = {"shift": 0, "shift_share": 1.0, "padding": "edge", "flip": False}
SCHEDULE = (
    "epochs",
    "eps",
    "p_first",
    "p_last",
    "p_start",
    "p_end",
    "snap",
    "eps_start",
    "eps_end",
    "eps_smooth",
    "lr_start",
    "lr_drops",
    "lr_drop_factor",
    "average_start",
)
# What the first versions did not know, and the value that it had.
LATER = {"average": 0.0, "select": 0.0, "validate_every": 1, "shift_share": 1.0, "padding": "edge"}
LATER_SCHEDULE = {"average_start": 0.0}


def digests(recipe: Recipe, key: str) -> list[str]:
    """SHA-256 of the settings of a method: today's, then what earlier versions wrote for the same settings."""
    flat = _flat(said(recipe, key))
    differing = state.differing(filled(flat, key), settings_of(recipe, key))
    if differing:
        return [_digest({**flat, "more": {name: ours for name, _, ours in differing}})]
    method, schedule = flat["methods"], flat["methods"]["schedule"]
    first = {name: value for name, value in method.items() if name not in LATER}
    first["schedule"] = {name: value for name, value in schedule.items() if name not in LATER_SCHEDULE}
    unused = method.items() >= LATER.items() and schedule.items() >= LATER_SCHEDULE.items()
    return [_digest(flat), *([_digest({**flat, "methods": first})] if unused else [])]


def _flat(settings: dict) -> dict:
    """The form of versions before schema 2."""
    evaluation, method = settings["evaluation"], settings["method"]
    shift = {name: method["augmentation"].get(name, value) for name, value in SHIFT.items()}
    attack = next((each for each in evaluation["attacks"] if each["name"] == PGD), {})
    return {
        "name": settings["name"],
        "dataset": settings["dataset"],
        "eps": settings["eps"],
        "eps_values": evaluation["eps_values"],
        "certificates": evaluation["certificates"],
        "attack": arguments_of(attack),
        "methods": {
            **{name: method[name] for name in METHOD},
            **shift,
            "schedule": {name: method["schedule"][name] for name in SCHEDULE},
        },
    }


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

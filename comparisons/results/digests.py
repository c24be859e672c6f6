"""Digests of settings.  Results that do not hold their settings are compared by them.

A digest covers settings in the flat form of versions before schema 2, with tables as the recipe has them.  So digests
of today equal those of that time.  A setting that the flat form lacks is added only if it differs from its default.  So
a new field does not change the digest of a recipe that does not use it.
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
# Settings that the first versions lacked, and the values that those versions used.
LATER = {"average": 0.0, "select": 0.0, "validate_every": 1, "shift_share": 1.0, "padding": "edge"}
LATER_SCHEDULE = {"average_start": 0.0}


def digests(recipe: Recipe, key: str) -> list[str]:
    """Returns the SHA-256 of a method's settings: today's, then those that earlier versions wrote for the same."""
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
    """Returns settings in the form of versions before schema 2."""
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

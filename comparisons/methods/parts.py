"""The parts of a method, of an evaluation: tables {"name": …, arguments…} and the registries that resolve them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from linf_plugin.models.architectures import ARCHITECTURES

from ..attacks.attack import ATTACKS
from .augmentations import AUGMENTATIONS
from .initialisations import INITIALISATIONS
from .losses import LOSSES
from .optimizers import OPTIMIZERS


@dataclass(frozen=True)
class Part:
    """registry: name → row.  given: the arguments that a table does not have: the harness gives them.  of: a row's
    function, which is the row itself by default."""

    registry: dict
    given: tuple[str, ...]
    of: Callable = lambda row: row

    def function(self, name: str) -> Callable:
        return self.of(self.registry[name])

    def parameters(self, name: str) -> dict[str, inspect.Parameter]:
        """What a table of that name may have."""
        every = inspect.signature(self.function(name)).parameters
        return {key: parameter for key, parameter in every.items() if key not in self.given}

    def resolve(self, table: dict, *args, **given):
        """The function that the table names, called with its arguments and those that are given."""
        return self.function(table["name"])(*args, **given, **arguments_of(table))

    def filled(self, table: dict) -> dict:
        """The table with every argument that has a default; as it is, where its name is not known."""
        if table.get("name") not in self.registry:
            return table
        defaults = {k: p.default for k, p in self.parameters(table["name"]).items() if p.default is not p.empty}
        return {"name": table["name"], **defaults, **arguments_of(table)}


PARTS = {  # key of a method's table
    "architecture": Part(ARCHITECTURES, ("shape", "classes", "mean", "std")),
    "initialisation": Part(INITIALISATIONS, ("model",)),
    "augmentation": Part(AUGMENTATIONS, ()),
    "loss": Part(LOSSES, ("model", "schedule")),
    "optimizer": Part(OPTIMIZERS, ("model", "loss")),
}
ATTACKING = Part(ATTACKS, ("model", "x", "labels", "eps", "seed"), of=lambda attack: attack.survives)


def arguments_of(table: dict) -> dict:
    return {key: value for key, value in table.items() if key != "name"}

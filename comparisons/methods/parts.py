"""The parts of methods and evaluations: tables {"name": …, arguments…}, and the registries that resolve them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from linf_plugin.models.architectures import ARCHITECTURES

from ..attacks.attack import ATTACKS, GIVEN
from .augmentations import AUGMENTATIONS
from .initialisations import INITIALISATIONS
from .losses import LOSSES
from .optimizers import OPTIMIZERS


@dataclass(frozen=True)
class Part:
    """A part of a recipe, with the registry of what it can name.

    registry: name → row.  given: arguments that the harness gives; a table does not have them.  of: row → its
    function; by default the row is the function.
    """

    registry: dict
    given: tuple[str, ...]
    of: Callable = lambda row: row

    def function(self, name: str) -> Callable:
        return self.of(self.registry[name])

    def parameters(self, name: str) -> dict[str, inspect.Parameter]:
        """Returns the arguments that a table of that name may have."""
        every = inspect.signature(self.function(name)).parameters
        return {key: parameter for key, parameter in every.items() if key not in self.given}

    def resolve(self, table: dict, *args, **given):
        """Calls the function that the table names with the table's arguments and those that are given.

        A function of your own need not take all that are given by name.
        """
        function = self.function(table["name"])
        taken = inspect.signature(function).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
            given = {key: value for key, value in given.items() if key in taken}
        return function(*args, **given, **arguments_of(table))

    def filled(self, table: dict) -> dict:
        """Returns the table with every default filled in.  A table with an unknown name stays as it is."""
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
ATTACKING = Part(ATTACKS, GIVEN, of=lambda attack: attack.find)


def arguments_of(table: dict) -> dict:
    return {key: value for key, value in table.items() if key != "name"}

"""The settings that a search varies, unless it is told others: ``SPACES``, one row each."""

from collections.abc import Iterator
from dataclasses import dataclass

from .recipe import Recipe


@dataclass(frozen=True)
class Space:
    """The values of a setting that a search tries: between low and high.

    times: low and high are multiples of the recipe's value.  log: values are drawn uniformly by their logarithm.
    """

    low: float
    high: float
    times: bool = False
    log: bool = False

    def around(self, value: float) -> tuple[float, float]:
        return (self.low * value, self.high * value) if self.times else (self.low, self.high)


SPACES = {  # the end of a setting's path → its space
    "optimizer.lr": Space(0.25, 4.0, times=True, log=True),
    "schedule.eps": Space(0.8, 1.5, times=True),
    "loss.ce_first": Space(0.1, 10.0, times=True, log=True),
    "loss.ce_last": Space(0.1, 10.0, times=True, log=True),
    "loss.width": Space(0.25, 4.0, times=True, log=True),
    "loss.mix": Space(0.0, 1.0),
    "loss.kappa": Space(0.0, 1.0),
    "loss.alpha": Space(0.05, 1.0),
    "loss.part": Space(0.1, 1.0),
    "loss.warmup": Space(0.0, 1.0),
    "loss.l1": Space(0.1, 10.0, times=True, log=True),
}


def spaces_of(recipe: Recipe, method: str) -> Iterator[tuple[str, float, float, bool]]:
    """Yields (path, low, high, log) for each setting of a method in ``SPACES`` that its tables give and is not 0."""
    settings = recipe.methods[method]
    tables = {"loss": settings.loss, "optimizer": settings.optimizer, "schedule": vars(settings.schedule)}
    for name, space in SPACES.items():
        table, key = name.split(".")
        value = tables[table].get(key)
        if isinstance(value, (int, float)) and value > 0:
            yield f"{table}.{key}", *space.around(value), space.log

"""The settings that a search varies by default: ``SPACES``, one row each."""

from collections.abc import Iterator
from dataclasses import dataclass

from .recipe import Recipe


@dataclass(frozen=True)
class Space:
    """The values of a setting that a search tries: between low and high, and up to the recipe's value.

    times: low and high are multiples of the recipe's value.  log: values are drawn uniformly by their logarithm.
    """

    low: float
    high: float
    times: bool = False
    log: bool = False

    def around(self, value: float) -> tuple[float, float]:
        """Returns the least and the largest value, given that of the recipe."""
        low, high = (self.low * value, self.high * value) if self.times else (self.low, self.high)
        return min(low, value), max(high, value)


SPACES = {  # table and key of a setting → its space
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
    "loss.spectral": Space(0.1, 10.0, times=True, log=True),
    "loss.temperature": Space(0.25, 4.0, times=True, log=True),
    "loss.offset": Space(0.25, 2.0, times=True),
    "loss.margin": Space(0.25, 4.0, times=True, log=True),
}


def _tables(recipe: Recipe, method: str) -> dict[str, dict]:
    settings = recipe.methods[method]
    return {"loss": settings.loss, "optimizer": settings.optimizer, "schedule": vars(settings.schedule)}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def spaces_of(recipe: Recipe, method: str) -> Iterator[tuple[str, float, float, bool]]:
    """Yields (path, low, high, log) for each setting in ``SPACES`` that a method's tables give, unless it is 0."""
    tables = _tables(recipe, method)
    for path, space in SPACES.items():
        table, key = path.split(".")
        value = tables[table].get(key)
        if _is_number(value) and value > 0:
            yield path, *space.around(float(value)), space.log


def value_of(recipe: Recipe, method: str, path: str) -> float:
    """Returns a number of a method's loss, optimizer or schedule, such as "optimizer.lr".

    Raises ValueError if the recipe gives no number there.
    """
    tables = _tables(recipe, method)
    table, _, key = path.partition(".")
    value = tables.get(table, {}).get(key)
    if not _is_number(value):
        numbers = [f"{name}.{k}" for name, content in tables.items() for k, v in content.items() if _is_number(v)]
        raise ValueError(f"{path} is no number that the recipe gives for {method}; it gives {', '.join(numbers)}")
    return float(value)

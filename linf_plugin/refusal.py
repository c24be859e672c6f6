"""Tables of rules for layers: each row is a rule, or a refusal that says why there is no rule."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Refusal:
    """The row of a layer type that has no rule on purpose.

    Attributes:
        reason: a clause for the message, such as "its inputs are dropped at random".
    """

    reason: str


def rule_of(table: Mapping[type, object], layer: nn.Module, what: str):
    """Returns the rule of a table for the type of a layer.

    Args:
        table: layer type → rule or ``Refusal``.
        layer: its exact type is looked up.  A subclass has no rule, because it may compute something else.
        what: the kind of rule, for the message, such as "rounding rule".

    Raises:
        TypeError: the table has no row for the type, or the row is a ``Refusal``.
    """
    row = table.get(type(layer))
    if isinstance(row, Refusal):
        raise TypeError(f"there is no {what} for {type(layer).__name__}: {row.reason}")
    if row is None:
        known = ", ".join(kind.__name__ for kind, rule in table.items() if not isinstance(rule, Refusal))
        raise TypeError(f"there is no {what} for {type(layer).__name__}, only for {known}")
    return row

"""Lets ``torch.compile`` compile a step of training for each exponent of a schedule."""

import contextlib
import math
import warnings
from collections.abc import Iterator

from torch import nn

from .schedule import Schedule, snapped

SPARE = 8  # compilations for other reasons, such as a smaller last batch
MOST = 256  # exponents that are worth a compilation each


def is_compiled(part: object) -> bool:
    """Returns whether a model or a loss, or a part of it, was given to ``torch.compile``."""
    if hasattr(part, "_torchdynamo_orig_callable"):
        return True
    modules = part.modules() if isinstance(part, nn.Module) else ()
    return any(m._compiled_call_impl is not None or hasattr(m, "_orig_mod") for m in modules)


def exponents(schedule: Schedule) -> set[float]:
    """Returns the exponents that a snapped schedule takes, ∞ included."""
    first, last = math.log(schedule.p_first), math.log(schedule.p_last)
    count = 64 * math.ceil((last - first) / math.log(2)) + 1  # far more than there are snapped exponents
    on_the_way = {snapped(math.exp(first + (last - first) * k / count)) for k in range(count + 1)}
    return {snapped(schedule.p_first), snapped(schedule.p_last), math.inf} | on_the_way


@contextlib.contextmanager
def room_to_compile(schedule: Schedule, *parts: object) -> Iterator[None]:
    """Raises PyTorch's limit of compilations while it is open, if a part is compiled.

    p is a constant of what is compiled, so each exponent is compiled once.  Beyond its limit PyTorch runs the rest
    without compiling it.  Warns if p changes too often for that, which is without ``snap``.
    """
    if not any(map(is_compiled, parts)):
        yield
        return
    from torch._dynamo import config  # takes seconds

    found = exponents(schedule) if schedule.snap else set()
    if not schedule.snap and schedule.p_first < schedule.p_last:
        warnings.warn(
            "torch.compile compiles the step again for every exponent, and this schedule takes a new one in each step: "
            f"after {config.recompile_limit} of them the rest is not compiled any more. Give a schedule with snap=True",
            stacklevel=3,
        )
    least = min(len(found), MOST) + SPARE
    limits = {
        "recompile_limit": max(config.recompile_limit, least),
        "accumulated_recompile_limit": max(config.accumulated_recompile_limit, 16 * least),  # of all functions
    }
    with config.patch(**limits):
        yield

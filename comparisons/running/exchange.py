"""Values and errors that several processes exchange.  An error on one process is raised on all, so that none waits."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from linf_plugin.training.parallel import Ranks


@dataclass(frozen=True)
class _Failure:
    """An error on another process."""

    text: str
    is_import: bool

    def error(self) -> Exception:
        return (ImportError if self.is_import else RuntimeError)(self.text)


class _Elsewhere(Exception):
    def __init__(self, failure: _Failure):
        super().__init__(failure.text)
        self.failure = failure


@contextlib.contextmanager
def failing_together(ranks: Ranks) -> Iterator[None]:
    """Raises an error of one process on all of them.

    Inside, all processes call ``exchanged`` equally often and with the same purpose, and do no other exchange.  After
    the last call nothing may fail.

    Raises:
        RuntimeError, ImportError: another process failed.
    """
    try:
        yield
    except _Elsewhere as error:
        raise error.failure.error() from None
    except Exception as error:
        if ranks.world > 1:  # the others wait in the next exchange
            ranks.gather(_Failure(f"{type(error).__name__}: {error}", isinstance(error, ImportError)))
        raise


def exchanged(ranks: Ranks, value) -> list:
    """Returns the values of all processes, in order.  Each is plain data or tensors on the CPU."""
    found = ranks.gather(value)
    for each in found:
        if isinstance(each, _Failure):
            raise _Elsewhere(each)
    return found

"""Methods that fail: the others go on, and the end says which failed and why."""

from collections.abc import Mapping

from ..results.schema import Results
from .contradiction import Contradiction


class MethodsFailed(RuntimeError):
    """Some methods of a run failed.

    failures: method → its error.  results: those of the other methods, as the folder has them.
    """

    def __init__(self, failures: Mapping[str, Exception], results: Results):
        self.failures, self.results = dict(failures), results
        super().__init__("; ".join(self.lines()))

    def lines(self) -> list[str]:
        """Returns a sentence for each method that failed."""
        return [f"{method} {_why(error)}" for method, error in self.failures.items()]


def _why(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ImportError):
        return f"is not available: {text}"
    known = isinstance(error, (ValueError, TypeError, FloatingPointError))
    return f"failed: {text if known else f'{type(error).__name__}: {text}'}"


def fails_alone(error: Exception) -> bool:
    """Returns whether an error concerns only its method.  A full disk or a wrong certificate stops the run."""
    return not isinstance(error, (OSError, Contradiction))


def raise_failures(failures: Mapping[str, Exception], results: Results) -> None:
    """Raises MethodsFailed; or the first error, if the settings of all methods are wrong and there is no result."""
    if not results.methods and all(isinstance(error, (ValueError, TypeError)) for error in failures.values()):
        raise next(iter(failures.values()))
    raise MethodsFailed(failures, results)

"""The table of complete verifiers, one row for each."""

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Verifier:
    """A verifier that decides every sample if it has the time.

    Attributes:
        name: by which it is asked for.
        label: its name in tables.
        proves: what "verified" is a statement about, for readers.
        module: the module beside this one that knows how to ask it.  The module has

            PROGRAM: the file that answers questions in a process of its own (``onnx_export.verifiers.child``);
            installed(): raises ImportError or FileNotFoundError with a sentence that says how to get the verifier;
            prepared(model, x, child): what all questions about a net share; raises TypeError, ValueError or
                RuntimeError if the verifier does not take the net.  model: float32, on the CPU; x: (1, *);
                child: the process that will answer;
            question(what it prepared, ``Asked``): what the program is asked;
            answer(what the program answered, ``Asked``): an ``Answer``.
        spare: seconds after the time limit at which the process is ended.
        alone: whether each question has a process of its own.
    """

    name: str
    label: str
    proves: str
    module: str
    spare: float
    alone: bool

    def load(self) -> ModuleType:
        """Returns the module.  It may import large packages, so this waits until the verifier is used."""
        return importlib.import_module(f"..{self.module}", __name__)


# None of these verifiers proves anything about the float32 program, so "verified" is never counted as certified.
COMPLETE: dict[str, Verifier] = {
    row.name: row
    for row in (
        Verifier(
            "exact",
            "exact radius",
            "proved for the exact function of the weights",
            "exact",
            spare=2.0,
            alone=False,  # it keeps its time limit, and little memory
        ),
        Verifier(
            "marabou",
            "Marabou",
            "about the exact function of the weights, with tolerances of about 1e-6 and without a proof",
            "marabou",
            spare=2.0,
            alone=True,  # it may ignore its time limit
        ),
        Verifier(
            "abcrown",
            "α,β-CROWN",
            "about the exact function of the weights, with rounding that is not bounded and without a proof",
            "abcrown",
            spare=65.0,  # it takes long to start, and its own limit does not count that
            alone=True,
        ),
    )
}


def verifier_of(name: str, argument: str = "names") -> Verifier:
    """Returns the row of a name.  Raises ValueError for an unknown name; the message names ``argument``."""
    if not isinstance(name, str) or name not in COMPLETE:
        raise ValueError(f"{argument} must be among {', '.join(COMPLETE)}, got {name!r}")
    return COMPLETE[name]


def check_installed(names: Iterable[str]) -> None:
    """Raises ImportError or FileNotFoundError if a verifier is not installed; the message says how to get it."""
    for name in names:
        verifier_of(name).load().installed()

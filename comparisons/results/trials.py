"""The trials of a search of settings, and the file that holds them."""

from dataclasses import dataclass
from pathlib import Path

from linf_plugin.files import write_json

from .settings import plain_data

FILE = "search.json"


@dataclass(frozen=True)
class Trial:
    """One training.  settings: path in the method's table → value.  clean, certified: fractions of held-out images."""

    number: int
    settings: dict[str, float]
    clean: float
    certified: float
    seconds: float


@dataclass(frozen=True)
class Found:
    """The trials of a search.  eps: of the certified accuracy.  held_out: part of the training set that was measured.
    front: numbers of the trials that no other trial beats in both accuracies."""

    recipe: str
    method: str
    label: str
    eps: float
    held_out: float
    seed: int
    trials: tuple[Trial, ...]
    front: tuple[int, ...]
    refused: int = 0


def write(path: str | Path, found: Found) -> None:
    """Writes the file: whole or not at all."""
    write_json(path, plain_data({**vars(found), "trials": [vars(trial) for trial in found.trials]}))

"""The trials of a search of settings, and the file that holds them."""

from dataclasses import dataclass
from pathlib import Path

from linf_plugin import plain
from linf_plugin.files import write_json

from .settings import plain_data
from .table import Table

FILE = "search.json"


@dataclass(frozen=True)
class Trial:
    """One training.

    settings: table and key in the method's table, such as "optimizer.lr" → value.  clean, certified: fractions of the
    held-out images.  seconds: of training.
    """

    number: int
    settings: dict[str, float]
    clean: float
    certified: float
    seconds: float


@dataclass(frozen=True)
class Found:
    """The trials of a search.

    eps: ε of the certified accuracy.  held_out: part of the training set that was measured on.  trials: those that did
    not fail.  front: numbers of the trials that no other trial beats: no other is better in one of both accuracies and
    at least as good in the other.  failed: how many trials failed.
    """

    recipe: str
    method: str
    label: str
    eps: float
    held_out: float
    seed: int
    trials: tuple[Trial, ...]
    front: tuple[int, ...]
    failed: int = 0


def write(path: str | Path, found: Found) -> None:
    """Writes the file: whole or not at all."""
    write_json(path, plain_data({**vars(found), "trials": [vars(trial) for trial in found.trials]}))


def read(path: str | Path) -> Found:
    """Reads the file.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is not one of ours; the message says what is wrong with it.
    """
    try:
        content = plain.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"its content must be a dict, got {type(content).__name__}")
        return _found(Table(content))
    except ValueError as error:
        raise ValueError(f"{path} is not a file of linf-compare search: {error}") from error


def _found(table: Table) -> Found:
    rows = table.sequence("trials")
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("trials must be a list of dict")
    trials = tuple(_trial(Table(row, f"trial {i}")) for i, row in enumerate(rows))
    front = table.rows("front")
    if unknown := set(front) - {trial.number for trial in trials}:
        raise ValueError(f"front has trial {min(unknown)}, which is not one of the trials")
    return Found(
        recipe=table.text("recipe"),
        method=table.text("method"),
        label=table.text("label"),
        eps=table.eps("eps"),
        held_out=table.number("held_out"),
        seed=table.whole("seed"),
        trials=trials,
        front=front,
        failed=table.whole("failed", 0),
    )


def _trial(table: Table) -> Trial:
    settings = table.table("settings")
    return Trial(
        number=table.whole("number"),
        settings={path: settings.number(path) for path in settings.content},
        clean=table.number("clean"),
        certified=table.number("certified"),
        seconds=table.number("seconds"),
    )

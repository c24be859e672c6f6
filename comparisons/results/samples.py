"""Reads and writes ``METHOD.samples.csv``: what was found about each sample, one row a sample.

Columns: sample, its number in the measured part; label; prediction; margin, the float32 logit of the label minus the
largest other; radius_<certificate>, the largest ε that this certificate proved, 0 if none; radius_best, the largest of
those of theorems; broken_eps, the smallest ε at which an attack broke it, 0 if it is misclassified, empty if none did;
broken_by, the attack, "clean" if it is misclassified, empty if none did.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linf_plugin import extras
from linf_plugin.files import replacing

NEEDED = ("sample", "label", "prediction", "margin", "radius_best", "broken_eps", "broken_by")


@dataclass(frozen=True)
class Samples:
    """What was found about each sample.  table: a pandas DataFrame with the columns above."""

    table: Any


def write(path: str | Path, samples: Samples) -> None:
    """Writes the file: whole or not at all."""
    with replacing(path) as f:
        f.write(samples.table.to_csv(index=False, lineterminator="\n").encode())


def read(path: str | Path) -> Samples:
    """Returns what a file says.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is not one of ours; the message says what is wrong with it.
    """
    with extras.named():
        import pandas

    try:
        table = pandas.read_csv(path, dtype={"broken_by": "object"}, keep_default_na=False, na_values={"broken_eps": ""})
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; `linf-compare run` writes it") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a samples file of linf-compare: {error}") from error
    if missing := [name for name in NEEDED if name not in table.columns]:
        raise ValueError(f"{path} is not a samples file of linf-compare: it lacks the column {missing[0]!r}")
    numbers = [name for name in table.columns if name != "broken_by"]
    for name in numbers:
        if not pandas.api.types.is_numeric_dtype(table[name]):
            raise ValueError(f"{path} is not a samples file of linf-compare: the column {name!r} must hold numbers")
    return Samples(table)

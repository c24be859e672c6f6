"""One row a sample: what each certificate proves of it, and what an attack did.  A file beside ``results.json``.

METHOD.samples.csv has the columns

- sample: its number in the part of the data that was measured, from 0; label; prediction;
- margin: the logit of the label minus the largest other one, as float32;
- radius_NAME: the largest ε among those of the run that certificate NAME, or one that it contains, proved, and 0 if it
  proved none.  A certificate that computes radii, such as lipschitz, has this radius;
- radius_best: the largest of those of theorems;
- broken_eps: the smallest ε at which an attack broke the sample; empty if none did, and 0 if it is misclassified;
- broken_by: the attack, such as "pgd"; empty if none broke it, and "clean" if it is misclassified.

Balls are nested.  So a sample is certified at ε > 0 if its radius is at least ε, and broken if broken_eps is at most ε.
All radii are in units of the pixel range.  METHOD.points.npz has adversarial points of some broken samples.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from linf_plugin import extras
from linf_plugin.files import replacing, write_text

from ..certificates import BEST

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

RADIUS = "radius_"
CLEAN = "clean"  # broken_by of a misclassified sample
FIRST = ("sample", "label", "prediction", "margin")
LAST = (RADIUS + BEST, "broken_eps", "broken_by")
POINTS = ("sample", "x", "adversarial", "eps", "by")


def file_of(method: str) -> str:
    """Returns the name of the file of a method."""
    return f"{method}.samples.csv"


def points_file_of(method: str) -> str:
    return f"{method}.points.npz"


@dataclass(frozen=True, eq=False)
class Samples:
    """The rows of a file.  frame: a pandas DataFrame with its columns."""

    frame: "pd.DataFrame"

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def certificates(self) -> tuple[str, ...]:
        """The names of its certificates; the last one is "best"."""
        return tuple(name.removeprefix(RADIUS) for name in self.frame.columns if name.startswith(RADIUS))

    def radius(self, certificate: str = BEST) -> "np.ndarray":
        """Returns (N,) float64.  Raises ValueError for a certificate that the file does not have."""
        if certificate not in self.certificates:
            raise ValueError(f"the certificate must be one of {', '.join(self.certificates)}, got {certificate!r}")
        return self.frame[RADIUS + certificate].to_numpy()

    def certified(self, eps: float, certificate: str = BEST) -> "np.ndarray":
        """Returns (N,) bool: the samples that the certificate proves at ε > 0."""
        return self.radius(certificate) >= eps

    def survives(self, eps: float) -> "np.ndarray":
        """Returns (N,) bool: the samples that are classified correctly, and that no attack broke at ε."""
        return ~(self.frame["broken_eps"].to_numpy() <= eps)


def samples_of(columns: dict) -> Samples:
    """Returns samples from their columns by name.  broken_eps is NaN where no attack broke the sample."""
    with extras.named():
        import pandas as pd

    return Samples(pd.DataFrame(columns))


def write(path: str | Path, samples: Samples) -> None:
    """Writes the file: whole or not at all, with every number in its shortest decimal form."""
    write_text(path, samples.frame.to_csv(index=False, lineterminator="\n"))


def read(path: str | Path) -> Samples:
    """Returns the rows of a file that ``write`` wrote.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is not one of ours; the message says what is wrong with it.
    """
    with extras.named():
        import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; `linf-compare run` and `certify` write it")
    try:
        frame = _converted(pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8"))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a file of samples of linf-compare: {error}") from error
    return Samples(frame)


def _converted(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Returns text as numbers.  NumPy reads decimals exactly; pandas does not in all versions."""
    if missing := [name for name in (*FIRST, *LAST) if name not in frame.columns]:
        raise ValueError(f"it has no column {missing[0]}")
    frame["broken_eps"] = frame["broken_eps"].replace("", "nan")
    for name in frame.columns:
        if name in ("sample", "label", "prediction"):
            frame[name] = frame[name].to_numpy(str).astype("int64")
        elif name == "margin":
            frame[name] = frame[name].to_numpy(str).astype("float32")
        elif name.startswith(RADIUS) or name == "broken_eps":
            values = frame[name].to_numpy(str).astype("float64")
            if (values < 0).any() or (name != "broken_eps" and (values != values).any()):
                raise ValueError(f"{name} must not be negative or missing")
            frame[name] = values
    if not frame["sample"].is_unique:
        raise ValueError("a sample stands twice")
    return frame


def write_points(path: str | Path, points: dict) -> None:
    """Writes adversarial points, whole or not at all.

    points: sample (M,) their numbers; x, adversarial (M, *) float32; eps (M,) the ε at which each was broken; by (M,)
    the name of the attack.
    """
    import numpy as np

    with replacing(path) as f:
        np.savez(f, **{name: points[name] for name in POINTS})


def read_points(path: str | Path) -> dict:
    """Returns what ``write_points`` wrote.  Raises FileNotFoundError, or ValueError if it is not one of ours."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as f:
            return {name: f[name] for name in POINTS}
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds
        raise ValueError(f"{path} is not a file of points of linf-compare: {error}") from error

"""Test images of the page: with their certified radius and, where an attack broke them, the adversarial image."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linf_plugin import extras

from ...attacks.attack import label_of as attack_label
from ...results import samples
from ..words import eps_text

MOST = 8  # images of a method


@dataclass(frozen=True)
class Shown:
    """One image of the gallery.  image, adversarial, difference: data URLs of PNG files; the last two only if broken.

    radius: the certified one, None if it is not known.  by, eps: the attack that broke it, and the radius of its ball.
    """

    sample: int
    label: int | None
    radius: str | None
    image: str
    adversarial: str | None = None
    difference: str | None = None
    by: str = ""
    eps: str = ""


def read_points(path: Path) -> dict[str, Any]:
    """Returns the arrays of a points file.  Raises ValueError if it is not one of ours; the message says why."""
    found = samples.read_points(path)
    x, count = found["x"], len(found["sample"])
    if any(array.shape[:1] != (count,) for array in found.values()) or found["adversarial"].shape != x.shape:
        raise ValueError(f"{path} is not a file of points of linf-compare: its arrays have different lengths")
    if x.dtype.kind != "f" or not (x.ndim == 2 or (x.ndim == 4 and x.shape[1] in (1, 3))):
        raise ValueError(f"{path} is not a file of points of linf-compare: x has shape {x.shape} and type {x.dtype}")
    return found


def gallery(points: dict[str, Any], table) -> list[Shown]:
    """Returns images of a points file: half of them broken, if there are so many.  Rows of numbers give none.

    Args:
        points: from ``read_points``.
        table: pandas DataFrame of the samples file, or None.
    """
    if points["x"].ndim != 4:
        return []
    broken = [bool((a != x).any()) for a, x in zip(points["adversarial"], points["x"])]
    order = sorted(range(len(broken)), key=lambda i: int(points["sample"][i]))
    hit, kept = ([i for i in order if broken[i] is which] for which in (True, False))
    of_kept = min(len(kept), max(MOST // 2, MOST - len(hit)))
    chosen = sorted([*hit[: MOST - of_kept], *kept[:of_kept]], key=order.index)
    rows = None if table is None else table.set_index("sample")
    return [_shown(points, i, broken[i], rows) for i in chosen]


def _shown(points: dict[str, Any], i: int, broken: bool, rows) -> Shown:
    sample, x = int(points["sample"][i]), points["x"][i].astype("float64")
    known = rows is not None and sample in rows.index
    label, radius = (int(rows.loc[sample, "label"]), float(rows.loc[sample, "radius_best"])) if known else (None, None)
    found = Shown(sample, label, None if radius is None else f"{radius:.4g}", png(x))
    if not broken:
        return found
    eps, adversarial = float(points["eps"][i]), points["adversarial"][i].astype("float64")
    return Shown(
        **vars(found)
        | {
            "adversarial": png(adversarial),
            "difference": png(0.5 + (adversarial - x) / (2 * eps if eps > 0 else 1.0)),
            "by": attack_label(str(points["by"][i])),
            "eps": eps_text(eps),
        }
    )


def png(image) -> str:
    """Returns an image (C, H, W) in [0, 1] as a data URL of a PNG file.  Values outside are clipped."""
    import numpy as np

    with extras.named():
        from PIL import Image
    pixels = np.round(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
    written = io.BytesIO()
    picture.save(written, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()

"""Runs for tests of the page: made-up results with samples and points, as ``linf-compare run`` writes them."""

import json
from pathlib import Path

import numpy as np
import pandas
from runs import made_up

from comparisons.results.file import eps_key
from comparisons.results.samples import Samples, write, write_points

EPS = (0.05, 0.1, 0.2)
TWO = {"ibp": None, "linf-dist": None}
DATA = {"dataset": "digits", "train_data_sha256": "a" * 64, "test_data_sha256": "b" * 64}


def write_run(
    folder: Path,
    methods: dict[str, str | None] = TWO,
    *,
    seed: int = 0,
    samples: int = 200,
    eps: float = 0.1,
    beside: bool = True,
    shape: tuple[int, ...] = (1, 8, 8),
    method: dict | None = None,
    **change,
) -> Path:
    """Writes a run into a folder and returns the folder.

    Args:
        methods: kind, or a name of one's own → label, None for the usual one.
        beside: whether there are samples and points files.
        method, change: as for ``made_up``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = made_up(dict.fromkeys(methods, 0.9), eps=eps, seed=seed, test_samples=samples, **change)
    content |= {"eps_values": sorted({*EPS, eps}), "shape": list(shape), "versions": {"torch": "2.13.0"}}
    for i, (name, label) in enumerate(methods.items()):
        m, table = content["methods"][name], _samples(np.random.default_rng((seed, i)), samples, i)
        m["label"] = m["label"] if label is None else label
        m["clean"] = float((table["label"] == table["prediction"]).mean())
        proved = {eps_key(e): float((table["radius_best"] >= e).mean()) for e in content["eps_values"]}
        kept = {eps_key(e): float((~(table["broken_eps"] <= e)).mean()) for e in content["eps_values"]}
        whole = {"norm": "linf", "failure": 0.0, "accuracy": proved}
        m |= {
            "attacked": {"pgd": kept},
            "certified": {"ibp": whole, "best": whole},
            "seconds": {"ibp": 0.4 + i, "pgd": 2},
        }
        m["training"] |= {"seconds": 60.0 * (1 + i / 4), "seconds_per_epoch": 1 + i / 4, "peak_memory_mib": 300.0}
        m |= {"date": f"2026-01-0{1 + seed}T12:00:00Z", "processor": "a processor", "data": DATA} | (method or {})
        if beside:
            m |= {"samples": f"{name}.samples.csv", "points": f"{name}.points.npz"}
            write(folder / m["samples"], Samples(table))
            _points(folder / m["points"], table, shape, eps)
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def _samples(rng: np.random.Generator, samples: int, i: int) -> pandas.DataFrame:
    """Samples of which about a tenth is misclassified, and the rest has radii around 0.2."""
    label = np.arange(samples) % 10
    correct = rng.random(samples) < 0.95 - 0.01 * i
    radius = np.where(correct, np.clip(rng.normal(0.15, 0.07, samples), 0, None), 0.0)
    broken = np.where(correct, np.where(radius < 0.15, 0.2, np.nan), 0.0)
    broken[correct & (radius < 0.06)] = 0.1
    return pandas.DataFrame(
        {
            "sample": np.arange(samples),
            "label": label,
            "prediction": np.where(correct, label, (label + 1) % 10),
            "margin": np.where(correct, 1.5, -0.5),
            "radius_ibp": radius,
            "radius_best": radius,
            "broken_eps": broken,
            "broken_by": np.where(correct, np.where(np.isnan(broken), "", "pgd"), "clean"),
        }
    )


def _points(path: Path, table: pandas.DataFrame, shape: tuple[int, ...], eps: float) -> None:
    rng, rows = np.random.default_rng(0), table[table["broken_by"] != "clean"].head(24)
    x = rng.random((len(rows), *shape)).astype(np.float32)
    hit = (rows["broken_eps"] <= eps).to_numpy()
    moved = np.clip(x + eps * np.sign(rng.random(x.shape) - 0.5), 0, 1).astype(np.float32)
    adversarial = np.where(hit.reshape(-1, *[1] * len(shape)), moved, x)
    by = np.where(hit, "pgd", "")
    found = {"sample": rows["sample"].to_numpy(), "eps": np.full(len(rows), eps), "by": by}
    write_points(path, found | {"x": x, "adversarial": adversarial})

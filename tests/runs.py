"""Results files for tests: made up, and as earlier versions wrote them."""

import copy
from pathlib import Path

from comparisons.results.file import eps_key
from comparisons.studies import found

DOCS = Path(__file__).parents[1] / "docs" / "results"
# Committed results of studies, by name: a folder of that name, where there is one.
STUDIES = {name: DOCS / {"marabou": "cross-check"}.get(name, name) for name in found.summaries() if name != "bench"}
STUDIES = {name: folder for name, folder in STUDIES.items() if folder.is_dir()}
OTHERS = ("exact",)  # results of a program of the tests
RUNS = [
    path
    for path in sorted(DOCS.glob("*/results.json"))
    if path.parent not in STUDIES.values() and path.parent.name not in OTHERS
]

LABELS = {"linf-dist": "ℓ∞-dist net", "ibp": "IBP"}
TRAINING = {  # in a method's table ``training`` → in the method itself, in form 1
    "epochs": "epochs",
    "seconds_per_epoch": "seconds_per_epoch",
    "seconds": "train_seconds",
    "images_per_second": "images_per_second",
    "peak_memory_mib": "peak_memory_mib",
    "loss": "loss",
    "schedule": "schedule",
    "select": "select",
    "chosen": "chosen",
    "validation": "validation",
}


def form_1(content: dict, keep: tuple[str, ...] = ("data", "settings", "versions")) -> dict:
    """What a version before schema 2 would have written.  keep: of three keys of a method that the first versions did
    not have."""
    found = copy.deepcopy(content)
    del found["schema"], found["norm"]
    found["attack"] = found.pop("attacks")["pgd"]["arguments"]
    for m in found["methods"].values():
        training = m.pop("training")
        m |= {old: training[new] for new, old in TRAINING.items() if new in training}
        m["pgd"] = m.pop("attacked")["pgd"]
        m["certified"] = {name: c["accuracy"] for name, c in m["certified"].items()}
        del m["kind"], m["broken"]
        m["identity"].pop("earlier", None)
        if "settings" in m:
            m["settings"] = flat(m["settings"])
        for key in {"data", "settings", "versions"} - set(keep):
            m.pop(key, None)
    return found


def flat(settings: dict) -> dict:
    """Settings of a method, as versions before schema 2 kept them."""
    evaluation, method = settings["evaluation"], dict(settings["method"])
    augmentation = {k: v for k, v in method.pop("augmentation").items() if k != "name"}
    shift = {"shift": 0, "shift_share": 1.0, "padding": "edge", "flip": False, **augmentation}
    del method["kind"], method["initialisation"]
    return {
        **{key: settings[key] for key in ("name", "dataset", "eps")},
        "eps_values": evaluation["eps_values"],
        "certificates": evaluation["certificates"],
        "attack": {k: v for k, v in evaluation["attacks"][0].items() if k != "name"},
        "methods": {**method, **shift},
    }


def made_up(
    clean: dict[str, float],
    *,
    recipe: str = "r",
    dataset: str = "digits",
    eps: float = 0.25,
    seed: int = 0,
    method: dict | None = None,
    **change,
) -> dict:
    """The content of a file.  Accuracy under PGD is a tenth below each method's clean one, certified accuracy two
    tenths.  method, change: what else stands in every method, and in the whole."""
    methods = {key: _method(key, recipe, seed, eps, c) | (method or {}) for key, c in clean.items()}
    for each in methods.values():
        each["identity"] |= {key: change[key] for key in ("changed",) if key in change}
    return {
        "schema": 2,
        "recipe": recipe,
        "dataset": dataset,
        "norm": "linf",
        "eps": eps,
        "eps_values": [eps],
        "seed": seed,
        "held_out": 0.0,
        "attacks": {"pgd": {"norm": "linf", "arguments": {"steps": 100, "restarts": 2}}},
        "test_samples": 10_000,
        "device": "cuda: NVIDIA H200",
        "methods": methods,
        **change,
    }


def _method(key: str, recipe: str, seed: int, eps: float, clean: float) -> dict:
    certified = {"ibp": {}, "best": {eps_key(eps): clean - 0.2}}
    return {
        "kind": key,
        "label": LABELS.get(key, key),
        "clean": clean,
        "attacked": {"pgd": {eps_key(eps): clean - 0.1}},
        "certified": {name: {"norm": "linf", "failure": 0.0, "accuracy": a} for name, a in certified.items()},
        "contradictions": 0,
        "parameters": 25_900,
        "pairs_per_sample": 25_900,
        "training": {"epochs": 6, "seconds_per_epoch": 20.0},
        "certify_seconds": 5.0,
        "identity": {"recipe": recipe, "method": key, "seed": seed, "held_out": 0.0, "settings": "abc"},
    }

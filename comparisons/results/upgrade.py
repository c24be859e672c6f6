"""Brings results files of earlier versions into the form of today.

Form 1 has no ``schema``.  All its certificates are theorems about ℓ∞ balls.  Its only attack is PGD.  The name of a
method is also its kind.
"""

LINF = "linf"
PGD = "pgd"
TRAINING = {  # key of a method in form 1 → in its table ``training``
    "epochs": "epochs",
    "seconds_per_epoch": "seconds_per_epoch",
    "train_seconds": "seconds",
    "images_per_second": "images_per_second",
    "peak_memory_mib": "peak_memory_mib",
    "loss": "loss",
    "schedule": "schedule",
    "select": "select",
    "chosen": "chosen",
    "validation": "validation",
}


def upgraded(content: dict) -> dict:
    """Turns form 1 into form 2.  Parts that do not fit form 1 stay as they are; the reader then refuses them."""
    rest = dict(content)
    attack, methods = rest.pop("attack", None), rest.pop("methods", None)
    found = {"norm": LINF, **rest, "schema": 2}
    if attack is not None:
        found["attacks"] = {PGD: {"norm": LINF, "arguments": attack}}
    if isinstance(methods, dict):
        methods = {name: _method(name, m) if isinstance(m, dict) else m for name, m in methods.items()}
    return found if methods is None else {**found, "methods": methods}


def _method(name: str, method: dict) -> dict:
    rest = {key: value for key, value in method.items() if key not in TRAINING}
    found = {"kind": name, **rest, "training": {new: method[old] for old, new in TRAINING.items() if old in method}}
    if "pgd" in found:
        found["attacked"] = {PGD: found.pop("pgd")}
    if isinstance(certified := found.get("certified"), dict):
        found["certified"] = {
            key: {"norm": LINF, "failure": 0.0, "accuracy": accuracy} for key, accuracy in certified.items()
        }
    return found

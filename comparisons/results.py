"""Whether a results file holds what ``run`` writes, so that tables and plots can be made of it."""

import math

from linf_plugin.datasets import DIGESTS


def check_results(results) -> None:
    """That the content of a results.json has what tables and plots read.

    Raises:
        ValueError: something is missing or of another type; the message says where.
    """
    _is(results, dict, "its content")
    for key in ("recipe", "dataset", "device"):
        _is(_of(results, key), str, key)
    for key in ("seed", "test_samples"):
        _is(_of(results, key), int, key)
    values = _is(_of(results, "eps_values"), list, "eps_values")
    eps = [_eps(_of(results, "eps"), "eps"), *(_eps(value, "eps_values") for value in values)]
    attack = _is(_of(results, "attack"), dict, "attack")
    for key in ("steps", "restarts"):
        _of(attack, key, "attack")
    for key, method in _is(_of(results, "methods"), dict, "methods").items():
        _check_method(_is(method, dict, key), key, {repr(float(a)) for a in eps})


def _is(value, kind: type | tuple[type, ...], where: str):
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = kind.__name__ if isinstance(kind, type) else "number"
        raise ValueError(f"{where[:80]} must be a {wanted}, got {type(value).__name__}")
    return value


def _of(content: dict, key: str, where: str = "it"):
    if key not in content:
        raise ValueError(f"{where[:80]} lacks {key!r}")
    return content[key]


def _eps(value, where: str) -> float:
    if not 0 <= _is(value, (int, float), where) < math.inf:
        raise ValueError(f"{where} must not be negative, got {value}")
    return value


def _check_method(method: dict, name: str, eps: set[str]) -> None:
    _is(_of(method, "label", name), str, f"label of {name}")
    for key in ("clean", "seconds_per_epoch", "certify_seconds", "contradictions", "parameters", "pairs_per_sample"):
        _is(_of(method, key, name), (int, float), f"{key} of {name}")
    _of(method, "epochs", name)
    _check_accuracies(_of(method, "pgd", name), f"pgd of {name}", eps)
    certified = _is(_of(method, "certified", name), dict, f"certified of {name}")
    _of(certified, "best", f"certified of {name}")
    for certificate, accuracies in certified.items():
        where = f"certified {certificate} of {name}"
        _check_accuracies(accuracies, where, eps if certificate == "best" else set())
    identity = _is(_of(method, "identity", name), dict, f"identity of {name}")
    _is(_of(identity, "seed", f"identity of {name}"), int, f"seed of {name}")
    if "data" in method:
        data = _is(method["data"], dict, f"data of {name}")
        for key in DIGESTS:
            _is(_of(data, key, f"data of {name}"), str, f"{key} of {name}")
    for key, value in identity.items():
        if isinstance(value, (list, dict)):
            raise ValueError(f"{key[:80]} of the identity of {name[:80]} must be one value")


def _check_accuracies(accuracies, where: str, eps: set[str]) -> None:
    for value in _is(accuracies, dict, where).values():
        _is(value, (int, float), where)
    if missing := eps - accuracies.keys():
        raise ValueError(f"{where[:80]} lacks ε = {min(missing)}")

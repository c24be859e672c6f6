"""Facts about certificates and norms, by name.  No other file here knows where they come from."""

import math

from linf_plugin.certificates.cascade import CERTIFICATES

BEST = "best"  # for each image the best of all certificates that were computed
_LABELS = {
    "lipschitz": "Lipschitz",
    "ibp": "interval",
    "crown-ibp": "CROWN-IBP",
    "crown": "CROWN",
    "alpha-crown": "α-CROWN",
    BEST: "best of all",
}
_NORMS = {"linf": (math.inf, "ℓ∞"), "l2": (2.0, "ℓ2"), "l1": (1.0, "ℓ1")}  # name → exponent, symbol


def names() -> tuple[str, ...]:
    """All certificates, in order of cost."""
    return CERTIFICATES


def in_order(some) -> list[str]:
    """Names of certificates in order of cost; names that are not known follow as they come, then ``BEST``."""
    known = (*names(), *(name for name in some if name not in names() and name != BEST), BEST)
    return [name for name in dict.fromkeys(known) if name in some]


def label_of(certificate: str) -> str:
    """How tables call it: the name itself where it is not known."""
    return _LABELS.get(certificate, certificate)


def norm_of(certificate: str) -> float:
    """The exponent of the norm in which it bounds perturbations."""
    return math.inf


def failure_of(certificate: str) -> float:
    """The probability that it is wrong about an image: 0 for a theorem."""
    return 0.0


def norm_named(name: str) -> float:
    """The exponent of a norm.  Raises ValueError where there is no such norm."""
    if name not in _NORMS:
        raise ValueError(f"norm must be one of {', '.join(_NORMS)}, got {name!r}")
    return _NORMS[name][0]


def name_of_norm(norm: float) -> str:
    """The name of an exponent, as recipes and results write it."""
    return next(name for name, (exponent, _) in _NORMS.items() if exponent == norm)


def symbol_of_norm(norm: float) -> str:
    """How readers see it: ℓ∞."""
    return next(symbol for exponent, symbol in _NORMS.values() if exponent == norm)

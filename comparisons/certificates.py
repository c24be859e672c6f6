"""Facts about certificates and norms, by name.  No other file here knows where they come from."""

from linf_plugin import norms
from linf_plugin.certificates import table

BEST = "best"  # for each image the best of all theorems that were computed


def names() -> tuple[str, ...]:
    """All certificates, in order of cost."""
    return table.in_order(table.CERTIFICATES)


def in_order(some) -> list[str]:
    """Names of certificates in order of cost; names that are not known follow as they come, then ``BEST``."""
    known = (*names(), *(name for name in some if name not in names() and name != BEST), BEST)
    return [name for name in dict.fromkeys(known) if name in some]


def label_of(certificate: str) -> str:
    """How tables call it: the name itself where it is not known."""
    if certificate == BEST:
        return "best of all"
    return table.CERTIFICATES[certificate].label if certificate in table.CERTIFICATES else certificate


def norm_of(certificate: str) -> float:
    """The exponent of the norm in which it bounds perturbations."""
    return table.CERTIFICATES[certificate].norm


def failure_of(certificate: str) -> float:
    """The probability that it is wrong about an image: 0 for a theorem."""
    return table.CERTIFICATES[certificate].failure


def norm_named(name: str) -> float:
    """The exponent of a norm.  Raises ValueError where there is no such norm."""
    if name not in norms.NORMS:
        raise ValueError(f"norm must be one of {', '.join(norms.NORMS)}, got {name!r}")
    return norms.NORMS[name]


def name_of_norm(norm: float) -> str:
    """The name of an exponent, as recipes and results write it."""
    return norms.name_of(norm)


def symbol_of_norm(norm: float) -> str:
    """How readers see it: ℓ∞."""
    return norms.SYMBOLS[norm]

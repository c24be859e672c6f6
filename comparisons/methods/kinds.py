"""What is compared: a row of ``METHODS`` for each kind of method."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """How a method is named in tables, and which certificates are computed for it."""

    label: str
    certificates: tuple[str, ...]


_BOUNDS = ("ibp", "crown-ibp", "crown", "alpha-crown")


# The Lipschitz bound of a linear head, or of clipped pixels, is so large that it certifies next to nothing; it
# stands in tables to show that.
METHODS = {
    "linf-dist": Method("ℓ∞-dist net", ("lipschitz", *_BOUNDS)),
    "linf-dist-clip": Method("ℓ∞-dist net, clipped pixels", ("lipschitz", *_BOUNDS)),
    "linf-dist-mlp": Method("ℓ∞-dist net+MLP", ("lipschitz", *_BOUNDS)),
    "linf-conv-mlp": Method("ℓ∞-dist net (conv)+MLP", ("lipschitz", *_BOUNDS)),
    "linf-dist-v2": Method("ℓ∞-dist net v2", ("lipschitz", *_BOUNDS)),
    "sortnet": Method("SortNet", ("lipschitz", *_BOUNDS)),
    "sortnet-mlp": Method("SortNet+MLP", ("lipschitz", *_BOUNDS)),
    "ibp": Method("IBP", _BOUNDS),
    "crown-ibp": Method("CROWN-IBP", _BOUNDS),
}

"""What is compared: a row of ``METHODS`` for each kind of method."""

from dataclasses import dataclass

from .. import certificates


@dataclass(frozen=True)
class Method:
    """label: in tables.  color: "#rrggbb", in pictures.  without: the certificates that are not computed for it."""

    label: str
    color: str
    without: tuple[str, ...] = ()


_NO_LIPSCHITZ_BOUND = ("lipschitz",)

# The Lipschitz bound of a linear head, or of clipped pixels, is so large that it certifies next to nothing; it
# stands in tables to show that.
METHODS = {
    "linf-dist": Method("ℓ∞-dist net", "#d62728"),
    "linf-dist-clip": Method("ℓ∞-dist net, clipped pixels", "#17becf"),
    "linf-dist-mlp": Method("ℓ∞-dist net+MLP", "#ff7f0e"),
    "linf-conv-mlp": Method("ℓ∞-dist net (conv)+MLP", "#bcbd22"),
    "linf-dist-v2": Method("ℓ∞-dist net v2", "#e377c2"),
    "sortnet": Method("SortNet", "#9467bd"),
    "sortnet-mlp": Method("SortNet+MLP", "#8c564b"),
    "ibp": Method("IBP", "#1f77b4", without=_NO_LIPSCHITZ_BOUND),
    "crown-ibp": Method("CROWN-IBP", "#2ca02c", without=_NO_LIPSCHITZ_BOUND),
}


def certificates_of(kind: str) -> tuple[str, ...]:
    """The certificates that are computed for a kind, in order of cost."""
    return tuple(name for name in certificates.names() if name not in METHODS[kind].without)


def label_of(name: str, kind: str) -> str:
    """What tables call a method of a recipe that gives it no label."""
    label = METHODS[kind].label
    return label if name == kind else f"{label} ({name})"

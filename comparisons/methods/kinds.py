"""The kinds of methods that are compared, one row of ``METHODS`` each."""

from dataclasses import dataclass

from .. import certificates


@dataclass(frozen=True)
class Method:
    """A kind of method.

    label: its name in tables.  color: "#rrggbb", in pictures.  without: certificates that are not computed for it.
    """

    label: str
    color: str
    without: tuple[str, ...] = ()


_NO_LIPSCHITZ_BOUND = ("lipschitz",)

# With a linear head or clipped pixels the Lipschitz bound is so large that it certifies almost nothing.  Tables
# have it to show that.
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
    """Returns the certificates that are computed for a kind, in order of cost."""
    return tuple(name for name in certificates.names() if name not in METHODS[kind].without)


def label_of(name: str, kind: str) -> str:
    """Returns the label of a method whose recipe gives it none."""
    label = METHODS[kind].label
    return label if name == kind else f"{label} ({name})"

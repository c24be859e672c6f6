"""The kinds of methods that are compared, one row of ``METHODS`` each."""

from dataclasses import dataclass

from .. import certificates


@dataclass(frozen=True)
class Method:
    """A kind of method.

    label: its name in tables.  color, marker: "#rrggbb" and a mark of matplotlib, in pictures; no two kinds share one.
    without: certificates that are not computed for it.
    """

    label: str
    color: str
    marker: str | tuple[int, int, int]
    without: tuple[str, ...] = ()


_NO_LIPSCHITZ_BOUND = ("lipschitz",)

# The colours of Okabe and Ito, which people with any kind of colour vision can tell apart, and more of different
# lightness.  Where two are alike, the marks differ.

# With a linear head or clipped pixels the Lipschitz bound is so large that it certifies almost nothing.  Tables
# have it to show that.
METHODS = {
    "linf-dist": Method("ℓ∞-dist net", "#d55e00", "o"),
    "linf-dist-clip": Method("ℓ∞-dist net, clipped pixels", "#56b4e9", "s"),
    "linf-dist-mlp": Method("ℓ∞-dist net+MLP", "#e69f00", "D"),
    "linf-conv-mlp": Method("ℓ∞-dist net (conv)+MLP", "#a09000", "p"),
    "linf-dist-v2": Method("ℓ∞-dist net v2", "#cc79a7", "v"),
    "sortnet": Method("SortNet", "#6a3d9a", "^"),
    "sortnet-mlp": Method("SortNet+MLP", "#8c564b", "<"),
    "ibp": Method("IBP", "#0072b2", "X", without=_NO_LIPSCHITZ_BOUND),
    "crown-ibp": Method("CROWN-IBP", "#009e73", "P", without=_NO_LIPSCHITZ_BOUND),
    "ibp-shi": Method("IBP (Shi)", "#08306b", "*", without=_NO_LIPSCHITZ_BOUND),
    "crown-ibp-fused": Method("CROWN-IBP, loss fusion", "#66a61e", "h", without=_NO_LIPSCHITZ_BOUND),
    "mtl-ibp": Method("MTL-IBP", "#7b3294", "d", without=_NO_LIPSCHITZ_BOUND),
    "sabr": Method("SABR", "#1b7f8c", ">", without=_NO_LIPSCHITZ_BOUND),
    "param-ramp": Method("ParamRamp", "#b2182b", "H", without=_NO_LIPSCHITZ_BOUND),
    "groupsort": Method("GroupSort, ℓ∞ ball", "#4d4d4d", "8"),
    "pgd": Method("PGD training", "#878787", (4, 1, 0), without=_NO_LIPSCHITZ_BOUND),
    "plain": Method("plain training", "#000000", ".", without=_NO_LIPSCHITZ_BOUND),
    # 1-Lipschitz in ℓ2.  Their Lipschitz bound in ℓ∞ grows with every layer.
    "sll": Method("SLL", "#332288", (6, 1, 0), without=_NO_LIPSCHITZ_BOUND),
    "cpl": Method("CPL", "#e7298a", (3, 1, 0), without=_NO_LIPSCHITZ_BOUND),
    "aol": Method("AOL", "#44aa99", (3, 1, 36), without=_NO_LIPSCHITZ_BOUND),
    "circulant": Method("diagonal-circulant", "#882255", (8, 1, 0), without=_NO_LIPSCHITZ_BOUND),
    "lip-reg": Method("PGD training, LipBound", "#999933", (5, 1, 36), without=_NO_LIPSCHITZ_BOUND),
}


def certificates_of(kind: str) -> tuple[str, ...]:
    """Returns the certificates that are computed for a kind, in order of cost."""
    return tuple(name for name in certificates.names() if name not in METHODS[kind].without)


def label_of(name: str, kind: str) -> str:
    """Returns the label of a method whose recipe gives it none."""
    label = METHODS[kind].label
    return label if name == kind else f"{label} ({name})"

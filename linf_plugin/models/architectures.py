"""All architectures by name."""

from typing import Any

from .circulant import circulant_mlp
from .distance import linf_conv, linf_mlp, linf_mlp_head, sortnet_mlp
from .lipschitz import SIZES, aol_conv, aol_mlp, cpl_conv, cpl_mlp, of_size, sll_conv, sll_mlp
from .net import Net
from .relu import LAYOUTS, from_layout, relu_conv, relu_mlp

ARCHITECTURES = {
    "linf-mlp": linf_mlp,
    "linf-mlp-head": linf_mlp_head,
    "linf-conv": linf_conv,
    "sortnet-mlp": sortnet_mlp,
    "relu-mlp": relu_mlp,
    "relu-conv": relu_conv,
    **{name: from_layout(layout) for name, layout in LAYOUTS.items()},
    "sll-mlp": sll_mlp,
    "cpl-mlp": cpl_mlp,
    "aol-mlp": aol_mlp,
    "sll-conv": sll_conv,
    "cpl-conv": cpl_conv,
    "aol-conv": aol_conv,
    "circulant-mlp": circulant_mlp,
    **{f"sll-{name}": of_size(size) for name, size in SIZES.items()},
}


def build(name: str, **arguments: Any) -> Net:
    """Builds a model of an architecture: ``build("linf-mlp", shape=(1, 8, 8), classes=10, width=128, depth=3)``.

    Raises:
        ValueError: the name is not in ``ARCHITECTURES``.
        TypeError: an argument is missing or unknown.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"name must be one of {', '.join(ARCHITECTURES)}, got {name!r}")
    return Net(ARCHITECTURES[name](**arguments))

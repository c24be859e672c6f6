"""All uses, by the name that a reader of ``linf_plugin.graphs.readers`` has."""

from .computed import ARITHMETIC, FUNCTIONS, POOLS, REDUCTIONS
from .moves import MOVES
from .use import Use
from .weighted import OF_WEIGHTS

FAMILIES = {
    "moves": MOVES,
    "arithmetic": ARITHMETIC,
    "functions": FUNCTIONS,
    "reductions": REDUCTIONS,
    "pools": POOLS,
    "weights": OF_WEIGHTS,
}
USES: dict[str, list[Use]] = {
    name if name.startswith("linf.") else f"aten.{name}": uses
    for family in FAMILIES.values()
    for name, uses in family.items()
}

# Readers that no net can use: what they read is refused, or no operator has the name.
UNUSED = {
    "aten.conv3d": "bounds of convolutions are known for one and two dimensions",
    "aten.conv_transpose3d": "bounds of convolutions are known for one and two dimensions",
    "aten.max_pool1d_with_indices": "PyTorch has no operator of this name",
}

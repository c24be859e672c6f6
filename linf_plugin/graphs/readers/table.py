"""All readers, by the name of the operator."""

from .arithmetic import ARITHMETIC
from .functions import FUNCTIONS
from .moves import MOVES
from .pools import POOLS
from .products import OF_WEIGHTS
from .reductions import REDUCTIONS

READERS = {**MOVES, **ARITHMETIC, **FUNCTIONS, **REDUCTIONS, **POOLS, **OF_WEIGHTS}

"""Data sets as tensors with values in [0, 1]: published images, and your own images or rows of numbers.

The package downloads nothing.  The digits come with scikit-learn.  TinyImageNet is read from the folder that its
archive unpacks to, the other published images from a folder with torchvision's layout.  A known name stands only for
the published images: any other data need another name.  The name and the digests go with every result and checkpoint.
"""

from .arrays import from_arrays
from .dataset import DIGESTS, Dataset, OtherData
from .identity import as_named, check_test_data, own_name
from .known import OWN_NAME, SOURCES, check_published
from .load import load_dataset
from .parts import for_training, hold_out
from .readers import TINY_SIDE

__all__ = [
    "DIGESTS",
    "OWN_NAME",
    "SOURCES",
    "TINY_SIDE",
    "Dataset",
    "OtherData",
    "as_named",
    "check_published",
    "check_test_data",
    "for_training",
    "from_arrays",
    "hold_out",
    "load_dataset",
    "own_name",
]

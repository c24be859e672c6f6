"""Compares data with what the metadata of a net say about them."""

import contextlib
from dataclasses import replace
from pathlib import Path

from .dataset import DIGESTS, Dataset, OtherData
from .known import SOURCES
from .parts import for_training


def own_name(named: dict) -> str | None:
    """Returns the name of your own data in the metadata of a net; None if the name is a known one or has no digest."""
    name = named.get("dataset")
    return None if name in SOURCES or DIGESTS[1] not in named else name


def check_test_data(data: Dataset, named: dict, where: str | Path) -> bool:
    """Compares the test data with the metadata of a net.  Returns True, or False if the metadata have no digest.

    Args:
        named: metadata with ``Dataset.identity``, from the file ``where``.

    Raises:
        OtherData: the data have another digest or, if the metadata have no digest, another name.
    """
    if DIGESTS[1] not in named and named.get("dataset", data.name) != data.name:
        raise OtherData(f"these are {data.things} of {data.name}, and {where} is about {named['dataset']}")
    wanted, found = named.get(DIGESTS[1]), data.digests[1]
    if wanted is not None and wanted != found:
        raise OtherData(
            f"the test {data.things} and labels of {data.name} here are not those that {where} is about: it names "
            f"{named.get('dataset', 'data without a name')} (SHA-256 {found[:16]}… here, {str(wanted)[:16]}… there)"
        )
    return wanted is not None


def as_named(data: Dataset, named: dict) -> Dataset:
    """Returns your own data as the metadata of a net name them.

    A file or folder without a test part was divided for training, and the metadata then name the divided data.  If
    neither the data nor the divided data have the digest in the metadata, the data are returned as they are.
    """
    wanted = named.get(DIGESTS[1])
    if wanted is None:
        return data
    found = data
    if len(data.x_train) == 0 and data.digests[1] != wanted:
        with contextlib.suppress(ValueError):  # too few to be divided, so no net was trained on a part of them
            found = for_training(data)
    if found.digests[1] != wanted:
        return data
    name = own_name(named)
    return found if name is None else replace(found, name=name)

"""Loads the data of a run, with messages for the command line."""

from pathlib import Path

from linf_plugin.datasets import Dataset, load_dataset


def load_own(dataset: str, data_dir: Path | None, data_name: str | None) -> Dataset:
    """Calls ``load_dataset``.  Messages name the flag ``--data-name``."""
    try:
        return load_dataset(dataset, data_dir, data_name)
    except ValueError as error:
        raise ValueError(str(error).replace("own_name", "--data-name")) from error

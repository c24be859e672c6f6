"""The data of a run, with messages for its command line."""

from pathlib import Path

from linf_plugin.datasets import Dataset, load_dataset


def load_own(dataset: str, data_dir: Path | None, data_name: str | None) -> Dataset:
    """``load_dataset``; its messages name the flag ``--data-name``."""
    try:
        return load_dataset(dataset, data_dir, data_name)
    except ValueError as error:
        raise ValueError(str(error).replace("own_name", "--data-name")) from error

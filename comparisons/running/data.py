"""Loads the data of a run, with messages for the command line, and checks that the methods take them."""

import os
import re
import sys
from pathlib import Path

import torch

from linf_plugin.datasets import SOURCES, Dataset, for_training, load_dataset
from linf_plugin.float32.reach import check_program
from linf_plugin.models.spec import values

from ..methods.parts import PARTS
from ..recipes.recipe import Recipe


def load(data: str | Path, data_dir: Path | None, data_name: str | None) -> Dataset:
    """Loads data as ``load_dataset`` does.  Raises its errors; messages name flags of the command line."""
    try:
        return load_dataset(data, data_dir, data_name)
    except ValueError as error:
        raise ValueError(_with_flags(error)) from error


def load_own(recipe: Recipe, data_dir: Path | None, data_name: str | None) -> Dataset:
    """Loads the data of a recipe, with a training part and a test part.  A line on stderr says if they were divided.

    Raises the errors of ``load_dataset`` and ``for_training``; messages name flags of the command line.
    """
    data = load(recipe.data, data_dir, data_name)
    if recipe.dataset in SOURCES:
        return data
    try:
        divided = for_training(data)
    except ValueError as error:
        raise ValueError(_with_flags(error)) from error
    if divided is not data and os.environ.get("RANK", "0") == "0":  # only one of several processes says it
        print(
            f"{data.name} has no test part: {len(divided.x_test)} of its {len(data.x_test)} {data.things} are it, the "
            "same at each call",
            file=sys.stderr,
        )
    return divided


def _with_flags(error: ValueError) -> str:
    text = re.sub(r"^data_dir\b", "--data-dir", re.sub(r"^data\b", "--data", str(error)))
    return re.sub(r"^own_name\b|(?<=: )own_name$", "--data-name", text)


def check_fits(recipe: Recipe, chosen: list[str], data: Dataset) -> None:
    """Checks that the architectures and augmentations of the methods take the data, before any work begins.

    Raises:
        ValueError: the data have no training part, or a method does not take samples of their shape.  The message
            names the method and the part of it.
    """
    if len(data.x_train) == 0:
        raise ValueError(f"{data.name} has no training part; linf_plugin.datasets.for_training makes one")
    about = {"shape": data.shape, "classes": data.classes, "mean": data.mean, "std": data.std}
    for key in chosen:
        method = recipe.methods[key]
        try:
            part = method.architecture
            made = PARTS["architecture"].resolve(part, **about)
            if isinstance(made, dict):
                for _ in values(made):
                    pass
            else:  # a module of your own: a net that cannot be certified is refused before it trains
                check_program(made.eval(), data.x_test[:1])
            part = method.augmentation
            if augment := PARTS["augmentation"].resolve(part):
                augment(data.x_train[:1], torch.Generator())
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{recipe.name} [methods.{key}]: {part['name']} does not take the {data.things} of {data.name}, which "
                f"have the shape {data.shape}: {error}"
            ) from error

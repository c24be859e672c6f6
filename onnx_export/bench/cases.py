"""The distances that are measured, in large and in small sizes, and the net that is exported."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

THREAD_COUNTS = (1, 2)


class Sizes(NamedTuple):
    """The sizes of what is measured, and how often it is repeated."""

    cases: tuple[dict, ...]  # distances; with ``pixels`` a convolution, padded so that images keep their size
    net: dict  # depth and width of the net that is exported
    repeats: int


FULL = Sizes(
    (
        {"p": math.inf, "batch": 512, "in": 1024, "out": 1024},
        {"p": 8.0, "batch": 512, "in": 1024, "out": 1024},
        {"p": math.inf, "batch": 32, "in": 64, "out": 64, "pixels": 32, "kernel": 3},
    ),
    {"depth": 5, "width": 5120},
    repeats=9,
)
QUICK = Sizes(
    (
        {"p": math.inf, "batch": 5, "in": 33, "out": 7},
        {"p": 8.0, "batch": 5, "in": 33, "out": 7},
        {"p": math.inf, "batch": 2, "in": 3, "out": 4, "pixels": 5, "kernel": 3},
    ),
    {"depth": 3, "width": 16},
    repeats=2,
)


def tensors_of(case: dict) -> tuple[Tensor, Tensor]:
    """x and w of a case, normally distributed."""
    generator = torch.Generator().manual_seed(0)
    images, kernel = ([case[key]] * 2 if key in case else [] for key in ("pixels", "kernel"))
    w = torch.randn(case["out"], case["in"], *kernel, generator=generator)
    return torch.randn(case["batch"], case["in"], *images, generator=generator), w


def size_of(case: dict) -> str:
    """The sizes of a case as the table shows them."""
    if "pixels" in case:
        return f"conv {case['batch']}×{case['in']}→{case['out']}, {case['pixels']}², k{case['kernel']}"
    return f"{case['batch']}×{case['in']}×{case['out']}"

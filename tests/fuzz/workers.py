"""Fuzzes nets one after the other, or by several processes at once.

The functions are not in ``__main__``, because a new process cannot import that.
"""

import concurrent.futures
import multiprocessing
import warnings
from collections.abc import Iterator

import torch

from . import campaign
from .tally import Tally

Work = tuple[str, int, int, int, int]  # family, seed, index, points, attacks


def prepare() -> None:
    """What each process sets once."""
    torch.set_num_threads(1)  # small nets; some points are evaluated by two
    # auto_LiRPA 0.7.1 says so of a tanh head, whose bounds are what is looked at.
    warnings.filterwarnings("ignore", "Pre-activation bounds are too loose", UserWarning)
    warnings.filterwarnings("ignore", "Using padding='same' with even kernel lengths", UserWarning)


def one(work: Work) -> tuple[str, dict, list[dict]]:
    """Fuzzes one net.  Returns its family, counts and violations.  An error says which net it was."""
    tally = Tally()
    try:
        found = campaign.fuzz_net(*work, tally)
    except Exception as error:
        family, seed, index, *_ = work
        error.add_note(f"with --family {family} --seed {seed} --first {index} --nets 1")
        raise
    return work[0], tally.groups, found


def each(works: list[Work], count: int) -> Iterator[tuple[str, dict, list[dict]]]:
    """Fuzzes all, in their order, by ``count`` processes."""
    if count == 1:
        yield from map(one, works)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(count, context, prepare) as pool:
        yield from pool.map(one, works)

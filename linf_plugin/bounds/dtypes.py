"""The default dtype for a while: auto_LiRPA makes tables and identity matrices in it."""

import contextlib
from collections.abc import Iterator

import torch

DEFAULTS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # PyTorch takes no other one


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    """Makes ``dtype`` the default while it is open.  None, or a dtype that cannot be the default, changes nothing."""
    before = torch.get_default_dtype()
    if dtype not in DEFAULTS or dtype == before:
        yield
        return
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)

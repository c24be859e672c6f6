"""Checks that the graph that auto_LiRPA has traced computes what the net computes."""

import torch
from torch import Tensor


def has_our_operators(bounded) -> bool:
    """Whether the graph has operators of this package, from its layers or called directly."""
    return any(type(node).__module__.startswith(__package__) for node in bounded._modules.values())


@torch.no_grad()
def check_reading(bounded) -> None:
    """Raises ValueError if the traced graph computes another function than the net.

    auto_LiRPA does not read some attributes of operators, such as the mode of a padding or ``ceil_mode`` of a pool.
    Graph and net are compared once, on the inputs of the trace and on random inputs.  Nothing is compared in training
    mode, in which a net is another function each time, or with loss fusion, by which auto_LiRPA changes the function on
    purpose.

    If the net takes a batch of another size and the graph does not, ``naming_samples`` will say so.
    """
    from auto_LiRPA.utils import unpack_inputs

    (model,), bounded._linf_unread = getattr(bounded, "_linf_unread", (None,)), (None,)
    if model is None or model.training or bounded.bound_opts.get("loss_fusion"):
        return
    inputs = unpack_inputs(bounded.global_input)
    generator = torch.Generator().manual_seed(0)
    drawn = [
        torch.randn(a.shape, generator=generator).to(a) if isinstance(a, Tensor) and a.is_floating_point() else a
        for a in inputs
    ]
    fails = False
    more = [torch.cat([a, a[:1]]) if isinstance(a, Tensor) and a.dim() else a for a in drawn]  # a larger batch
    for x in (more, drawn, inputs):  # the inputs come last, because auto_LiRPA remembers the last ones
        try:
            wanted = model(*x)
        except Exception:  # the net takes no random numbers or no other batch size: then it has no bounds there either
            continue
        try:
            found = bounded(*x)
        except Exception:
            fails = fails or x is more
            continue
        bounded._linf_fixed = fails  # the same graph takes the number of samples of the trace
        if not isinstance(wanted, Tensor) or not isinstance(found, Tensor):
            continue
        rounding = torch.finfo(wanted.dtype).eps ** 0.5 if wanted.is_floating_point() else 0.0
        scale = wanted.abs().nan_to_num(0.0, 0.0, 0.0).max().item() if wanted.numel() else 0.0
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype) or not torch.allclose(
            found, wanted, rtol=rounding, atol=rounding * (1 + scale), equal_nan=True
        ):
            raise ValueError(
                "auto_LiRPA reads this net as another function, so its bounds would be those of another net. Leave out "
                "what it does not read, such as padding modes, ceil_mode or count_include_pad of pools, and casts"
            )

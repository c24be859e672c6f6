"""auto_LiRPA's form of a net that trains, for losses."""

from typing import Any

from torch import nn

from ..arguments import check_model
from . import fresh


def for_training(model: nn.Module, inputs: Any, **options: Any) -> nn.Module:
    """Returns a BoundedModule in training mode.  It shares the parameters and the saved buffers of the net.

    auto_LiRPA reads the net in evaluation mode, because in training mode it misreads normalisations.  Then a call of
    the BoundedModule runs the net in training mode: its normalisations use the statistics of the batch and move the
    running ones.  Bounds that follow use the statistics of the last call.  ``ParamRamp`` has no leak in it.

    Bounds of it are for losses, and are no certificates.  Nothing checks whether the net has changed since, which each
    step of training does.

    Args:
        model: the net, in evaluation mode.
        inputs: what ``BoundedModule`` traces.
        options: as ``BoundedModule`` takes them.

    Raises:
        TypeError: the net is not a module.
        ValueError: the net or one of its layers is in training mode.
    """
    from auto_LiRPA import BoundedModule

    check_model(model)
    bounded = BoundedModule(model, inputs, **options)
    buffers = dict(model.named_buffers())
    for node in bounded._modules.values():
        if hasattr(node, "buffer"):  # auto_LiRPA has copied it
            node.buffer = buffers[node.ori_name]
    bounded.train()  # returns nothing, unlike that of torch
    bounded._linf_record, bounded._linf_watched = fresh.Record(), False
    return bounded

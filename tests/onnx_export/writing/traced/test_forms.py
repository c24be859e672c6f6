"""Forms of indices: each is found again, and gives exactly the index; what has none is left to its index."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from linf_plugin.graphs.capture import capture
from linf_plugin.graphs.operations import Largest
from onnx_export.writing.traced.describe import average_form, largest_form
from onnx_export.writing.traced.forms import group_form, group_index, move_form, move_index, numbered

IMAGE = (2, 5, 6)
X = numbered(IMAGE)
MOVES = {
    "flatten": (X.flatten(), "reshape"),
    "reshape": (X.view(5, 12), "reshape"),
    "nothing": (X, "reshape"),
    "permute": (X.permute(1, 2, 0), "transpose"),
    "transpose": (X.transpose(1, 2), "transpose"),
    "slice": (X[:, 1:4, ::2], "take"),
    "flip": (X.flip(2), "take"),
    "one channel": (X[1:], "take"),
    "upsample": (X.repeat_interleave(2, 1).repeat_interleave(3, 2), "take"),
    "roll": (X.roll(1, 0), "take"),
    "zeros around": (F.pad(X, (1, 2, 0, 3), value=-1), "pad"),
    "zeros behind": (F.pad(X, (0, 1), value=-1), "pad"),
    "select": (X[:, 2], None),
    "shuffled": (X.flatten()[torch.randperm(60, generator=torch.Generator().manual_seed(0))], None),
    "pixel shuffle": (F.pixel_shuffle(numbered((4, 2, 3)).double(), 2).long(), None),
    "with a hole": (torch.where(X == 7, -1, X), None),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves(name):
    index, kind = MOVES[name]
    inputs = [(4, 2, 3)] if name == "pixel shuffle" else [IMAGE]
    form = move_form(index, inputs)
    assert (form and form[0]) == kind
    if form is not None:
        assert torch.equal(move_index(form, inputs), index)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_values_that_are_joined(axis):
    shapes = [IMAGE, (*IMAGE[:axis], 3, *IMAGE[axis + 1 :])]
    index = torch.cat([numbered(shapes[0]), numbered(shapes[1], 60)], axis)
    assert move_form(index, shapes) == ("concat", {"axis": axis})
    assert move_form(index.flip(0), shapes) is None or axis == 1
    assert move_form(index.flatten(), shapes) is None or axis == 0


POOLS = {  # pool → name of its form, kernel
    nn.MaxPool2d(2): ("window", [2, 2]),
    nn.MaxPool2d(3, 2, 1): ("window", [3, 3]),
    nn.MaxPool2d((1, 3), (2, 1), (0, 1)): ("window", [1, 3]),
    nn.MaxPool2d(2, 1, dilation=2): ("window", [2, 2]),
    nn.MaxPool2d(2, ceil_mode=True): ("window", [2, 2]),
    nn.AvgPool2d(2): ("window", [2, 2]),
    nn.AvgPool2d(3, 2, 1): ("window", [3, 3]),
    nn.AvgPool2d(3, 2, 1, count_include_pad=False): ("window", [3, 3]),
    nn.AvgPool2d(2, ceil_mode=True): ("window", [2, 2]),
    nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False): ("window", [2, 2]),
    nn.AvgPool2d((5, 6)): ("over", None),
    nn.AdaptiveAvgPool2d(1): ("over", None),
    nn.AdaptiveAvgPool2d((5, 3)): ("window", [1, 2]),
    nn.AdaptiveAvgPool2d((2, 4)): (None, None),
    nn.AdaptiveMaxPool2d((1, 6)): ("over", None),
    nn.AvgPool2d(2, divisor_override=3): (None, None),
}


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_pools_of_torch(pool):
    """The form of an average tells what it divides by, too."""
    kind, kernel = POOLS[pool]
    (module,) = capture(pool, torch.zeros(1, *IMAGE)).parts
    form = (largest_form if isinstance(module, Largest) else average_form)(module, [IMAGE])
    assert (form and form[0]) == kind
    if kind == "window":
        assert form[1]["kernel"] == kernel


@pytest.mark.parametrize("axes", [[0], [2], [1, 2], [0, 2], [0, 1, 2]])
@pytest.mark.parametrize("keepdims", [False, True])
def test_whole_dimensions(axes, keepdims):
    form = ("over", {"axes": axes, "keepdims": keepdims})
    assert group_form(group_index(form, [IMAGE]), [IMAGE]) == form


def test_two_values():
    index = torch.stack([numbered(IMAGE), numbered(IMAGE, 60)], -1)
    assert group_form(index, [IMAGE, IMAGE]) == ("pair", {})
    assert group_form(index.flip(-1), [IMAGE, IMAGE]) is None
    assert group_form(index, [IMAGE, IMAGE, IMAGE]) is None


def test_groups_without_a_form():
    random = torch.randint(60, (4, 3), generator=torch.Generator().manual_seed(0))
    assert group_form(random, [IMAGE]) is None
    unequal = torch.tensor([[0, 1, -1], [2, 3, 4]])  # windows of two sizes
    assert group_form(unequal.unsqueeze(0), [(1, 5)]) is None

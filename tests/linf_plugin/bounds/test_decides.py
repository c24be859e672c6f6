"""A net that decides by values of its input has no bounds by auto_LiRPA, which sees one branch only."""

import contextlib

import pytest
import torch
from torch import nn

from linf_plugin.bounds import versions
from linf_plugin.bounds.decides import check_values
from linf_plugin.certificates import margin_bound
from linf_plugin.layers import LinfDistLinear


class Net(nn.Module):
    """Runs ``run(layer, x)``."""

    def __init__(self, run, layer=None):
        super().__init__()
        self.run, self.layer = run, layer or nn.Linear(4, 3)

    def forward(self, x):
        return self.run(self.layer, x)


def _written(layer, x):
    """The decision is about a tensor that was made in the net, whose view was filled with x."""
    y = x.new_zeros(x.shape)
    y.view(-1)[1:] = x.reshape(-1)[1:]
    return layer(x) if y.max() > 0.5 else -layer(x)


def _caught(layer, x):
    with contextlib.suppress(Exception):
        return layer(x) if x.mean() > 0.5 else -layer(x)
    return layer(x)


def _attributes(layer, x):
    x.mark = layer(x)
    return x.mark if x.mark.sum().item() > 0 else 2 * x.mark


DECIDE = {  # how → what the message names
    "a condition": (lambda layer, x: layer(x) if x.mean() > 0.5 else -layer(x), "__bool__"),
    "a number": (lambda layer, x: layer(x) * float(x.max()), "__float__"),
    "a list": (lambda layer, x: layer(x) * sum(x[0].tolist()), "tolist"),
    "NumPy": (lambda layer, x: layer(torch.from_numpy(x.numpy())), "numpy"),
    "an index": (lambda layer, x: layer(x)[:, [0, 1, int(x[0, 0] > 0)]], "__int__"),
    "data": (lambda layer, x: layer(x.data), ".data"),
    "equality": (lambda layer, x: layer(x) if torch.equal(x, x.abs()) else -layer(x), "equal"),
    "an attribute": (_attributes, "item"),
    "a view": (_written, "__bool__"),
    "a text": (lambda layer, x: layer(x) * float(f"{x.mean():.6f}"), "__format__"),
    "a caught error": (_caught, "__bool__"),
}


def _shape(layer, x):
    assert x.shape[1] == 4 and len(x) > 0 and x.dim() == 2 and x.is_floating_point()
    return layer(x)


def _constants(layer, x):
    return layer(x) if layer.weight.sum() > 1e9 else 2 * layer(x)


def _rows(layer, x):
    a, b, *_ = x.unbind(1)
    for column in x.T:
        a = a + column
    return layer(x) + (a + b).unsqueeze(1)


DO_NOT = {"shapes": _shape, "weights": _constants, "columns": _rows}


@pytest.mark.parametrize("how", DECIDE)
@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_a_decision_is_refused_also_without_rounding(how, method):
    run, named = DECIDE[how]
    x, y = torch.rand(2, 4), torch.tensor([0, 1])
    with pytest.raises(TypeError, match=rf"decides by values: .*\({named}.*test_decides.py, line \d+\)"):
        margin_bound(Net(run).eval(), x, y, 0.01, method, sound=False)


@pytest.mark.parametrize("how", DO_NOT)
def test_what_is_no_decision_is_taken(how):
    check_values(Net(DO_NOT[how]).eval(), torch.rand(2, 4))


@pytest.mark.parametrize("how", DECIDE)
def test_the_plugin_refuses_it_for_nets_with_our_layers(how):
    run, named = DECIDE[how]
    versions.import_auto_lirpa()
    from auto_LiRPA import BoundedModule

    with pytest.raises(TypeError, match=rf"decides by values: .*\({named}"):
        BoundedModule(Net(run, LinfDistLinear(4, 3)).eval(), torch.rand(2, 4))


def test_inputs_are_left_as_they_are():
    def halve(layer, x):
        return layer(x.mul_(0.5))

    x = torch.ones(2, 4)
    check_values(Net(halve).eval(), x)
    assert (x == 1).all()

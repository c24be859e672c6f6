"""A compiled step is compiled once for each exponent of a schedule, and never given up."""

import pytest
import torch
from torch import nn
from torch._dynamo import config
from torch._dynamo.utils import counters

import linf_plugin
from linf_plugin.training import Schedule, adam, fit
from linf_plugin.training.compiled import exponents, is_compiled, room_to_compile


def _data():
    return torch.rand(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])


def _loss(net, x, y, step):
    return nn.functional.cross_entropy(net(x), y)


def _net():
    torch.manual_seed(0)
    return linf_plugin.build("linf-mlp", shape=(1, 2, 2), classes=3, width=4, depth=1)


@pytest.fixture
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def test_exponents_are_all_that_a_schedule_takes():
    schedule = Schedule(epochs=1000, eps=0.1, p_first=3.0, p_last=1000.0, p_end=1000)
    assert exponents(schedule) == {schedule.at(epoch / 7).p for epoch in range(7001)}


def test_what_is_compiled():
    net, block = _net(), _net()
    block.compile(backend="eager")
    assert not is_compiled(net) and not is_compiled(_loss)
    assert is_compiled(torch.compile(net, backend="eager")) and is_compiled(nn.Sequential(block))
    assert is_compiled(torch.compile(_loss, backend="eager"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("what", ["model", "loss"])
def test_every_exponent_of_a_schedule_is_compiled(what, fresh):
    net, (x, y) = _net(), _data()
    schedule = Schedule(epochs=24, eps=0.1, p_first=3.0, p_last=100.0, p_end=23)
    assert len(exponents(schedule)) > config.recompile_limit
    before = config.recompile_limit
    model = torch.compile(net, backend="eager") if what == "model" else net
    loss = torch.compile(_loss, backend="eager") if what == "loss" else _loss
    fit(model, loss, adam(net, lr=0.01), schedule, x, y, batch_size=6, progress=False)
    assert config.recompile_limit == before
    taken = {schedule.at(epoch).p for epoch in range(24)}
    assert counters["frames"]["ok"] >= len(taken) and not counters["recompile_limit"]


def test_an_exponent_for_each_step_is_told():
    schedule = Schedule(epochs=2, eps=0.1, p_first=3.0, p_last=100.0, p_end=2, snap=False)
    compiled = torch.compile(_net(), backend="eager")
    with pytest.warns(UserWarning, match="snap=True"), room_to_compile(schedule, compiled):
        pass
    with room_to_compile(schedule, _net(), _loss):
        pass

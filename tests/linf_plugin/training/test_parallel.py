"""Two processes do what one does."""

import copy
import math

import pytest
import torch
from ranks import Ranks as Pool
from torch import nn

from comparisons.methods import LOSSES
from linf_plugin import MeanShift, build, reestimate_means, set_p
from linf_plugin.layers import distance_layers
from linf_plugin.training import Schedule, adam
from linf_plugin.training.parallel import Ranks, join, synchronised_means

STEP = Schedule(epochs=4, eps=0.1, p_first=2, p_end=3).at(0.0)  # p = 2: every weight has a gradient to compare
METHODS = {
    "clipped-hinge": ("linf-mlp", dict(width=8, depth=3)),
    "hinge": ("linf-conv", dict(channels=(3, 4), strides=(1, 2), width=8)),
    "interval-ce": ("linf-mlp-head", dict(width=8, depth=2, hidden=6)),
    "ibp": ("relu-mlp", dict(width=8, depth=2)),
    "crown-ibp": ("relu-mlp", dict(width=8, depth=2)),
}
LOSS_ARGUMENTS = {"clipped-hinge": dict(ce_first=0.1, ce_last=0.01)}


@pytest.fixture(scope="module")
def ranks():
    pool = Pool(__file__)
    yield pool
    pool.close()


def problem(rows: int, dtype=torch.float32):
    """Which half of the image is brighter, in the pixel range."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(rows, 1, 4, 4, generator=generator, dtype=dtype)
    y = torch.arange(rows) % 2
    x[y == 0, :, :2] += 1
    x[y == 1, :, 2:] += 1
    return x / 2, y


def method(name: str, dtype=torch.float32):
    """(model, loss) with the same random weights on every rank, none of which outweighs the others."""
    torch.manual_seed(5)
    architecture, arguments = METHODS[name]
    model = build(architecture, shape=(1, 4, 4), classes=2, **arguments).to(dtype)
    for layer in distance_layers(model):
        nn.init.normal_(layer.weight)
    made = LOSSES[name](model.eval(), Schedule(epochs=4, eps=0.1, p_end=3), **LOSS_ARGUMENTS.get(name, {}))
    return model, made.to(dtype) if isinstance(made, nn.Module) else made


# Parts of a batch.


def one_step(ranks: Ranks, name: str, rows: int) -> dict:
    """Gradients, running means and loss of one step."""
    model, loss = method(name)
    parameters = [*model.parameters(), *(loss.parameters() if isinstance(loss, nn.Module) else ())]
    model.train()
    set_p(model, STEP.p)
    value = ranks.loss(loss, model, *problem(rows), STEP)
    value.backward()
    ranks.sum_gradients(parameters)
    return {
        "loss": ranks.sum(value), "grads": [p.grad for p in parameters], "means": list(model.buffers()),
    }


@pytest.mark.parametrize("rows", (24, 33, 3, 1))
@pytest.mark.parametrize("name", METHODS)
def test_gradients_means_and_loss_are_those_of_one_process(ranks, name, rows):
    expected = one_step(Ranks(), name, rows)
    found = ranks(one_step, name, rows)
    assert _bits(found[0]) == _bits(found[1])
    torch.testing.assert_close(found[0]["loss"], expected["loss"], rtol=1e-5, atol=0)
    moved = [g.norm() > 0 for g in expected["grads"]]
    assert len(moved) > 3 and (any(moved) if rows == 1 else all(moved))  # nothing is left of one sample less its mean
    for ours, theirs in zip(found[0]["grads"], expected["grads"], strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    for ours, theirs in zip(found[0]["means"], expected["means"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def _bits(result: dict) -> list:
    return [t.tolist() for t in (result["loss"], *result["grads"], *result["means"])]


# Batch means.


def shifted(ranks: Ranks, parts, shape, dtype) -> tuple:
    """Output, gradient by x and running mean of a shift of this rank's part of a batch."""
    torch.manual_seed(0)
    x, grad = torch.randn(2, sum(parts), 3, *shape, dtype=dtype).split(parts, 1)[ranks.rank]
    x.requires_grad_()
    shift = MeanShift(3).to(dtype)
    shift.running_mean.fill_(0.5)
    with synchronised_means(shift, ranks.group):
        y = shift(x)
    y.backward(grad)
    return y.detach(), x.grad, shift.running_mean


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("shape", ((), (2, 5)), ids=("rows", "images"))
@pytest.mark.parametrize("parts", ((3, 3), (1, 6), (5, 0), (0, 0)), ids=str)
def test_means_are_those_of_the_whole_batch_however_it_is_parted(ranks, parts, shape, dtype):
    torch.manual_seed(0)
    x, grad = torch.randn(2, sum(parts), 3, *shape, dtype=dtype)
    x.requires_grad_()
    shift = MeanShift(3).to(dtype)
    shift.running_mean.fill_(0.5)
    y = shift(x)
    y.backward(grad)
    outputs, grads, means = zip(*ranks(shifted, parts, shape, dtype))
    assert [len(o) for o in outputs] == list(parts)
    close = dict(rtol=1e-2, atol=1e-2) if dtype == torch.bfloat16 else dict(rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.cat(outputs), y.detach(), **close)
    torch.testing.assert_close(torch.cat(grads), x.grad, **close)
    torch.testing.assert_close(means[0], shift.running_mean, **close)
    assert torch.equal(*means)


def reestimated(ranks: Ranks, rows: int, batch: int) -> list:
    model, _ = method("clipped-hinge", torch.float64)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, MeanShift):
                layer.running_mean.fill_(math.nan)  # of a batch that overflowed
    ranks.reestimate_means(model, problem(rows, torch.float64)[0].split(batch))
    return list(model.buffers())


@pytest.mark.parametrize("batch", (40, 13, 3))  # last batches of 40, 1 and 1
def test_reestimated_means_are_those_of_whole_batches(ranks, batch):
    expected, (found, other) = reestimated(Ranks(), 40, batch), ranks(reestimated, 40, batch)
    assert all(map(torch.equal, found, other))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


def evaluated_alone(ranks: Ranks) -> bool:
    """Rank 0 alone uses the model and a copy in training mode, where a synchronised mean would wait for rank 1."""
    model, loss = method("clipped-hinge")
    x, y = problem(8)
    ranks.loss(loss, model.train(), x, y, STEP)
    if ranks.main:
        reestimate_means(copy.deepcopy(model), [x])
        model(x)
    return ranks.agree(ranks.main)


def test_nothing_waits_outside_of_a_step(ranks):
    assert ranks(evaluated_alone) == [True, True]


def test_means_are_let_go_after_an_exception():
    shift = MeanShift(2)
    with pytest.raises(ValueError, match="x must have shape"), synchronised_means(shift, None):
        assert shift.sum_over_ranks is not None
        shift(torch.rand(2))
    assert shift.sum_over_ranks is None


# What ranks tell each other.


def told(ranks: Ranks) -> tuple:
    poison = torch.tensor(1.0 if ranks.main else math.nan)
    plain = ranks.agree({"rank": ranks.rank, "state": torch.arange(3)})
    return ranks.sum(torch.tensor(ranks.rank + 1.0)).item(), ranks.sum(poison).item(), plain["rank"], plain["state"].tolist()


def test_all_ranks_see_sums_what_is_not_finite_and_what_rank_0_says(ranks):
    for total, poisoned, rank, state in ranks(told):
        assert (total, rank, state) == (3.0, 0, [0, 1, 2]) and math.isnan(poisoned)


def test_a_process_that_torchrun_did_not_start_is_alone(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")  # a batch system's: nobody asked for a run of several processes
    with join("cpu") as ranks:
        assert ranks == Ranks() and ranks.main
        assert ranks.agree("x") == "x" and ranks.sum(torch.tensor(2.0)) == 2.0


def test_more_processes_than_cuda_devices_are_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="device cuda: 3 processes but 2 CUDA devices"), join("cuda"):
        pass

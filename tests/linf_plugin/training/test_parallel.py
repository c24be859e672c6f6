"""Two processes do what one does."""

import copy
import itertools
import json
import math
import time
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from ranks import Ranks as Pool
from torch import nn

from comparisons.methods.losses import LOSSES
from linf_plugin import MeanShift, build, reestimate_means, set_p
from linf_plugin.layers.base import distance_layers
from linf_plugin.training import Log, Schedule, adam, budgets, fit, loop, shift_and_flip
from linf_plugin.training.optim import decay_distances
from linf_plugin.training.parallel import Ranks, join, synchronised_means

STEP = Schedule(epochs=4, eps=0.1, p_first=2, p_end=3).at(0)  # p = 2: every weight has a gradient to compare
SCHEDULE = Schedule(epochs=4, eps=0.1, p_end=3)
METHODS = {
    "clipped-hinge": ("linf-mlp", dict(width=8, depth=3)),
    "sorted": ("sortnet-mlp", dict(width=8, depth=3, rho=0.5, k=4, group=6)),
    "hinge": ("linf-conv", dict(channels=(3, 4), strides=(1, 2), width=8)),
    "interval-ce": ("linf-mlp-head", dict(width=8, depth=2, hidden=6)),
    "ibp": ("relu-mlp", dict(width=8, depth=2)),
    "crown-ibp": ("relu-mlp", dict(width=8, depth=2)),
}
ONE_STEP = [name for name in METHODS if name != "sorted"]  # whose ranks draw other subsets than one process
CLIPPED = dict(ce_first=0.1, ce_last=0.01)


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
    architecture, arguments = METHODS[name]
    kind, settings = ("clipped-hinge", CLIPPED) if name in ("clipped-hinge", "sorted") else (name, {})
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = build(architecture, shape=(1, 4, 4), classes=2, **arguments).to(dtype)
        for layer in distance_layers(model):
            nn.init.normal_(layer.weight)
    loss = LOSSES[kind](model.eval(), SCHEDULE, **settings)
    return model, loss.to(dtype) if isinstance(loss, nn.Module) else loss


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
    return {"loss": ranks.sum(value), "grads": [p.grad for p in parameters], "means": list(model.buffers())}


@pytest.mark.parametrize("rows", (24, 33, 3, 1))
@pytest.mark.parametrize("name", ONE_STEP)
def test_gradients_means_and_loss_are_those_of_one_process(ranks, name, rows):
    expected = one_step(Ranks(), name, rows)
    found = ranks(one_step, name, rows)
    assert _bits(found[0]) == _bits(found[1])
    torch.testing.assert_close(found[0]["loss"], expected["loss"], rtol=1e-5, atol=0)
    moved = [g.norm() > 0 for g in expected["grads"]]
    # of one sample less its mean nothing is left
    assert len(moved) > 3 and (any(moved) if rows == 1 else all(moved))
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


# Whole runs.


def _stop(loss: nn.Module, epoch: float) -> None:
    """Makes the loss interrupt the run there."""

    def stop(loss, arguments):
        if arguments[-1].epoch == epoch:
            raise KeyboardInterrupt

    loss.register_forward_pre_hook(stop)


def trained(ranks: Ranks, name: str, rows: int, batch: int, folder=None, stop_at=None, **options) -> dict:
    """``fit`` in float64 with everything on: augmentation, decay, an average, validation, a log, a state."""
    torch.manual_seed(ranks.rank)  # what a caller's generator holds must not matter
    model, made = method(name, torch.float64)
    validated = []

    if stop_at is not None:
        _stop(made, stop_at)

    def validate(model):
        validated.append(model)
        return {"certified": 0.5}

    x, y = problem(rows, torch.float64)
    files = {} if folder is None else {"state_path": f"{folder}/state.pt", "log": Log(f"{folder}/log.jsonl")}
    try:
        done = fit(
            model,
            made,
            adam(model, 0.05, made, 0.01),
            SCHEDULE,
            x,
            y,
            batch_size=batch,
            seed=2,
            augment=lambda x, g: shift_and_flip(x, g, pixels=1, flip=True),
            after_backward=lambda model, step, lr: decay_distances(model, 0.01 * lr),
            average=0.5,
            validate=validate,
            validate_every=2,
            ranks=ranks,
            progress=False,
            **files,
            **options,
        )
    except KeyboardInterrupt:
        return {}
    return {
        "model": model.state_dict(),
        "scalar": [p.detach() for p in made.parameters()],
        "losses": [h["loss"] for h in done.history],
        "validated": len(validated),
        "chosen": done.chosen,
        "epochs": done.schedule.epochs,
    }


@pytest.mark.parametrize(
    "name, rows, batch",
    [
        ("clipped-hinge", 75, 16),  # 20 steps, the last of each epoch with 11 rows
        ("interval-ce", 65, 16),  # with one row
        ("hinge", 35, 7),
    ],
)
def test_twenty_steps_end_with_the_weights_of_one_process(ranks, name, rows, batch):
    """In float64: with Adam's eps of 1e-10 a gradient that is nothing but rounding moves a weight like any other,
    so that in float32 sums in another order lead elsewhere within a few steps."""
    expected, found = trained(Ranks(), name, rows, batch), ranks(trained, name, rows, batch)
    for other in found:
        for key, value in expected["model"].items():
            torch.testing.assert_close(other["model"][key], value, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(other["scalar"], expected["scalar"], rtol=1e-6, atol=0)
        assert other["losses"] == pytest.approx(expected["losses"], rel=1e-6)
        assert other["chosen"] == expected["chosen"] and expected["chosen"]["epoch"] == 3
    assert _same(*found)
    assert [other["validated"] for other in found] == [expected["validated"], 0]


def _same(one: dict, two: dict) -> bool:
    """Whether two results have the same bits."""
    return all(torch.equal(value, two["model"][key]) for key, value in one["model"].items()) and (
        one["losses"],
        [p.tolist() for p in one["scalar"]],
    ) == (two["losses"], [p.tolist() for p in two["scalar"]])


@pytest.mark.parametrize("stop_at", (0.25, 2.5))
@pytest.mark.parametrize("name", ("clipped-hinge", "sorted"))
def test_an_interrupted_run_ends_with_the_same_bits(ranks, tmp_path, name, stop_at):
    whole = ranks(trained, name, 50, 13)
    assert _same(*whole)
    assert ranks(trained, name, 50, 13, tmp_path, stop_at) == [{}, {}]
    assert (tmp_path / "state.pt").exists() == (stop_at > 1)
    resumed = ranks(_resumed, name, 50, 13, tmp_path)
    assert _same(whole[0], resumed[0]) and _same(whole[0], resumed[1])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == whole[0]["losses"]


def _resumed(ranks: Ranks, *args) -> dict:
    return trained(ranks, *args, resume=True)


def test_a_run_may_go_on_with_another_number_of_processes(ranks, tmp_path):
    whole = trained(Ranks(), "clipped-hinge", 50, 13)
    assert ranks(trained, "clipped-hinge", 50, 13, tmp_path, 2.5) == [{}, {}]
    alone = _resumed(Ranks(), "clipped-hinge", 50, 13, tmp_path)
    for key, value in whole["model"].items():
        torch.testing.assert_close(alone["model"][key], value, rtol=1e-6, atol=1e-6)


def other_folders(ranks: Ranks, folders) -> str:
    """The message where each rank finds a state of its own."""
    try:
        trained(ranks, "clipped-hinge", 50, 13, folders[ranks.rank], resume=True)
    except ValueError as error:
        return str(error)


def test_ranks_that_do_not_see_the_same_state_are_refused(ranks, tmp_path):
    folders = []
    for epochs in (1, 2):
        folders.append(tmp_path / str(epochs))
        assert trained(Ranks(), "clipped-hinge", 50, 13, folders[-1], stop_at=epochs + 0.5) == {}
    for folder, message in zip(folders, ranks(other_folders, folders)):
        assert message.startswith(f"{folder}/state.pt is not the same file for every process")


def budgeted(ranks: Ranks) -> dict:
    """Whoever looks at the clock finds that a millisecond has passed; on the second rank, an hour."""
    looks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(looks) * (1e-3 if ranks.main else 3600.0), time=time.time)
    with mock.patch.object(budgets, "time", clock), mock.patch.object(loop, "time", clock):
        return trained(ranks, "clipped-hinge", 50, 13, budget=0.3)


def test_the_first_rank_s_clock_fits_a_schedule_to_a_budget(ranks):
    one, two = ranks(budgeted)
    assert one["epochs"] == two["epochs"] == len(one["losses"]) and 20 < one["epochs"] < 80
    assert _same(one, two)


def drawn(ranks: Ranks) -> tuple:
    """What layers and augmentation draw in each step of two epochs."""
    layers, augmented = [], []

    def loss(model, x, y, step):
        layers.append(torch.rand(()).item())
        return model(x).sum()

    def augment(x, generator):
        augmented.append(torch.rand((), generator=generator).item())
        return x

    model, _ = method("sorted")
    fit(
        model,
        loss,
        adam(model, 0.1),
        Schedule(epochs=2, eps=0.1, p_end=1),
        *problem(12),
        batch_size=4,
        augment=augment,
        ranks=ranks,
        progress=False,
    )
    return layers, augmented


def test_ranks_augment_alike_and_layers_draw_differently(ranks):
    alone = drawn(Ranks())
    (first, augmented), (second, also) = ranks(drawn)
    assert (first, augmented) == alone and augmented == also
    assert len({*first, *second}) == 12


def refusals(ranks: Ranks) -> list[str]:
    """Messages of runs that fail on all ranks at once."""
    model, made = method("clipped-hinge")

    def poisoned(model, x, y, step):  # on the last rank alone
        return made(model, x, y, step) * (math.nan if step.epoch == 1.5 and ranks.rank == ranks.world - 1 else 1.0)

    messages = []
    for batch in (10, 1):
        try:
            fit(
                model,
                poisoned,
                adam(model, 0.01, made),
                SCHEDULE,
                *problem(20),
                batch_size=batch,
                ranks=ranks,
                progress=False,
            )
        except (FloatingPointError, ValueError) as error:
            messages.append(str(error))
    return messages


def test_a_loss_that_is_not_finite_and_too_small_a_batch_stop_all_ranks(ranks):
    one, two = ranks(refusals)
    assert one == two
    assert one[0].startswith("loss is nan in epoch 1, step 1 ")
    assert one[1] == "batch_size must be at least the number of processes, 2, got 1"


def unlike(ranks: Ranks) -> dict:
    torch.manual_seed(ranks.rank)
    model = build("linf-mlp", shape=(1, 4, 4), classes=2, width=8, depth=2)
    before = [a.clone() for a in model.parameters()]
    ranks.start_alike(model)
    return {"before": before, "after": list(model.parameters())}


def test_ranks_start_with_the_weights_of_the_first(ranks):
    one, two = ranks(unlike)
    assert not torch.equal(one["before"][0], two["before"][0])
    for found in (one, two):
        assert all(map(torch.equal, found["after"], one["before"]))


# What ranks tell each other.


def told(ranks: Ranks) -> tuple:
    total = ranks.sum(torch.tensor(ranks.rank + 1.0)).item()
    poisoned = ranks.sum(torch.tensor(1.0 if ranks.main else math.nan)).item()
    plain = ranks.agree({"rank": ranks.rank, "state": torch.arange(3)})
    return total, poisoned, plain["rank"], plain["state"].tolist(), ranks.alike(3), ranks.alike(ranks.rank)


def test_all_ranks_see_sums_what_is_not_finite_and_what_rank_0_says(ranks):
    for total, poisoned, rank, state, same, other in ranks(told):
        assert (total, rank, state) == (3.0, 0, [0, 1, 2]) and math.isnan(poisoned)
        assert same and not other


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

"""The loop: it learns, stops and goes on bit by bit, and reports trouble."""

import itertools
import json
import math
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from linf_plugin import build, checkpoint, files
from linf_plugin.layers.base import distance_layers
from linf_plugin.layers.shifts import MeanShift
from linf_plugin.training import Log, Schedule, adam, budgets, clipped_hinge, fit, shift_and_flip
from linf_plugin.training.loop import LOOK_EVERY
from linf_plugin.training.parallel import Ranks

SCHEDULE = Schedule(epochs=4, eps=0.1, p_end=3)


class Loss(nn.Module):
    """Clipped hinge with a learned temperature: state that has to survive an interruption."""

    def __init__(self, interrupt_at=None):
        super().__init__()
        self.scalar = nn.Parameter(torch.ones(()))
        self.interrupt_at = interrupt_at

    def forward(self, model, x, y, step):
        if step.epoch == self.interrupt_at:
            raise KeyboardInterrupt
        return clipped_hinge(model(x), y, step.eps, 0.1, self.scalar)


def problem(seed=1):
    """Which half of the image is brighter."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(60, 1, 4, 4, generator=generator)
    y = torch.arange(60) % 2
    x[y == 0, :, :2] += 1
    x[y == 1, :, 2:] += 1
    return x / 2, y


NETS = {"linf-mlp": dict(depth=2), "sortnet-mlp": dict(depth=3, rho=0.5, k=4, group=6)}


def validate(model):
    """Figures that a later epoch need not improve: of other images, with a random number that must not matter."""
    x, y = problem(2)
    torch.rand(())
    found = clipped_hinge(model(x), y, 0.1, 0.0).item()
    return {"certified": -found, "clean": (model(x).argmax(1) == y).double().mean().item()}


OPTIONS = {"plain": {}, "chosen": dict(validate=validate, validate_every=2, average=0.8)}


def train(
    tmp_path, interrupt_at=None, resume=False, schedule=SCHEDULE, name="linf-mlp", device="cpu", full=False, **options
):
    torch.manual_seed(5)
    model = build(name, shape=(1, 4, 4), classes=2, width=8, **NETS[name]).to(device)
    loss = Loss(interrupt_at).to(device)
    torch.seed()  # what ``fit`` draws depends on its own seed alone
    trained = fit(
        model,
        loss,
        adam(model, 0.05, loss, 0.01),
        schedule,
        *(a.to(device) for a in problem()),
        batch_size=16,
        **{"seed": 2, "progress": False} | options,
        augment=lambda x, g: shift_and_flip(x, g, pixels=1),
        state_path=tmp_path / "state.pt",
        resume=resume,
    )
    return model, loss, trained if full else trained.history


def same(one, two) -> bool:
    return all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())


def without_times(history):
    return [{k: v for k, v in record.items() if k not in TIMES} for record in history]


TIMES = ("seconds", "images_per_second", "time", "validation_seconds", "peak_memory_mib")


def test_it_learns_and_ends_in_evaluation_mode_at_infinity_with_the_means_of_the_data(tmp_path):
    model, _, history = train(tmp_path, schedule=Schedule(epochs=40, eps=0.1, p_end=30))
    x, y = problem()
    assert not model.training and all(layer.p == math.inf for layer in distance_layers(model))
    assert (model(x).argmax(1) == y).double().mean() > 0.95
    assert [h["epoch"] for h in history] == list(range(40)) and history[-1]["loss"] < history[0]["loss"]
    first = next(i for i, m in enumerate(model) if isinstance(m, MeanShift))
    before = x
    for layer in list(model)[:first]:
        before = layer(before)
    torch.testing.assert_close(model[first].running_mean, before.mean(0))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("epoch", [1.0, 2.25, 3.75])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, epoch, name, options, device):
    settings = {"name": name, "device": device, "full": True, **options}
    whole, loss, trained = train(tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", interrupt_at=epoch, **settings)
    model, loss_again, again = train(tmp_path / "cut", resume=True, **settings)
    assert same(whole, model) and same(loss, loss_again)
    assert without_times(trained.history) == without_times(again.history) and trained.chosen == again.chosen
    finished, _, nothing_more = train(tmp_path / "cut", resume=True, **settings)
    assert same(whole, finished) and nothing_more == again


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", NETS)
def test_the_same_seed_gives_the_same_bits(tmp_path, name, options):
    one, two = (train(tmp_path / folder, name=name, **options)[0] for folder in "ab")
    assert same(one, two)
    assert not same(one, train(tmp_path / "c", name=name, seed=3, **options)[0])


@pytest.mark.parametrize("name", NETS)
def test_validation_and_averaging_do_not_touch_training(tmp_path, name):
    """The state of training after the last epoch, bit by bit."""
    plain, chosen = tmp_path / "plain", tmp_path / "chosen"
    train(plain, name=name)
    train(chosen, name=name, **OPTIONS["chosen"] | {"validate_every": 1})
    one, two = (checkpoint.read(folder / "state.pt")["parts"] for folder in (plain, chosen))
    del two["average"]
    assert files.digest(one) == files.digest(two)


@pytest.mark.parametrize("every", [1, 3])
def test_the_model_that_is_left_is_the_best_that_was_seen(tmp_path, every):
    states, figures = [], iter([0.1, 0.9, 0.3, 0.2, *[0.1] * 20])

    def validate(model):
        states.append({key: value.clone() for key, value in model.state_dict().items()})
        return {"certified": next(figures)}

    model, _, trained = train(tmp_path, validate=validate, validate_every=every, average=0.9, full=True)
    measured = [h["epoch"] for h in trained.history if "validation" in h]
    assert measured == ([0, 1, 2, 3] if every == 1 else [2, 3]) and len(states) == 2 * len(measured)
    assert trained.chosen == {"epoch": measured[0], "weights": "average", "certified": 0.9}
    assert trained.history[measured[0]]["validation"] == {"last": {"certified": 0.1}, "average": {"certified": 0.9}}
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in states[1].items())
    assert not model.training and all(layer.p == math.inf for layer in distance_layers(model))


def test_an_average_is_the_moving_mean_of_the_weights(tmp_path):
    """Without a validation it is what is left; it begins as a copy at the epoch that the schedule says."""
    seen = []

    def hook(model, step, lr):
        seen.append((step.epoch, model[2].weight.detach().clone()))

    schedule = replace(SCHEDULE, average_start=1.5)
    model = train(tmp_path, schedule=schedule, average=0.7, after_backward=hook)[0]
    last = train(tmp_path / "last", schedule=schedule)[0]
    weights = [weight for epoch, weight in seen[1:] if epoch > 1.5] + [last[2].weight]  # after each step
    mean = weights[0]
    for weight in weights[1:]:
        mean = 0.7 * mean + 0.3 * weight
    torch.testing.assert_close(model[2].weight, mean)


def test_before_its_start_there_is_no_average(tmp_path):
    """Else the first weights would be measured, and kept where the last step of the last epoch comes too early."""
    schedule = replace(SCHEDULE, average_start=2.0)
    *_, trained = train(tmp_path, schedule=schedule, average=0.7, validate=validate, full=True)
    assert [list(record["validation"]) for record in trained.history] == [["last"]] * 2 + [["last", "average"]] * 2
    schedule = replace(SCHEDULE, average_start=3.9)
    averaged, last = (train(tmp_path / f"{a}", schedule=schedule, average=a)[0] for a in (0.7, 0.0))
    assert same(averaged, last)


def test_a_budget_only_stretches_the_schedule(tmp_path, monkeypatch, capsys):
    """The fitted run has the bits of a run of as many epochs without a budget."""
    now = itertools.count(0.0, 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: next(now))
        settings = {"budget": 3.0, "full": True, **OPTIONS["chosen"]}
        model, _, trained = train(tmp_path / "fitted", **settings)
    epochs = trained.schedule.epochs
    assert f"train: {epochs} epochs (instead of 4) fit into 3s" in capsys.readouterr().err
    assert trained.schedule == SCHEDULE.scaled(epochs) and epochs == len(trained.history) > 4
    assert [path.name for path in (tmp_path / "fitted").iterdir()] == ["state.pt"]  # nothing is left of timing
    assert same(model, train(tmp_path / "plain", schedule=trained.schedule, **OPTIONS["chosen"])[0])


def test_a_resumed_run_keeps_the_schedule_that_was_fitted(tmp_path, monkeypatch, capsys):
    settings = {"budget": 60.0, "full": True}

    def fixed(iterate, *_, budget=None, **__):
        return budgets.Fitted(iterate.schedule.scaled(6), iterate.schedule, 60.0, 1.0)

    monkeypatch.setattr(budgets, "fit_schedule", fixed)
    whole, _, trained = train(tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", interrupt_at=4.25, **settings)
    monkeypatch.setattr(budgets, "fit_schedule", None)  # nothing is fitted again
    model, _, again = train(tmp_path / "cut", resume=True, **settings)
    assert same(whole, model) and again.schedule == trained.schedule == SCHEDULE.scaled(6)


def _draws(seed: int, epochs: int) -> list[tuple[float, ...]]:
    """What a layer draws from torch's generator, a tuple an epoch of two steps."""
    drawn = []

    def loss(model, x, y, step):
        drawn.append((step.epoch, torch.rand(()).item()))
        return model(x).sum()

    model = build("linf-mlp", shape=(1, 4, 4), classes=2, width=8, depth=2)
    fit(
        model,
        loss,
        adam(model, 0.1),
        Schedule(epochs=epochs, eps=0.1, p_end=1),
        *problem(),
        batch_size=30,
        seed=seed,
        progress=False,
    )
    return [tuple(value for epoch, value in drawn if int(epoch) == e) for e in range(epochs)]


def test_layers_draw_what_the_seed_and_the_epoch_say_and_the_caller_s_generator_stays():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    build("linf-mlp", shape=(1, 4, 4), classes=2, width=8, depth=2)
    after_build = torch.get_rng_state()
    torch.set_rng_state(before)
    draws = _draws(seed=3, epochs=3)
    assert torch.equal(torch.get_rng_state(), after_build)
    torch.manual_seed(12)
    assert _draws(seed=3, epochs=2) == draws[:2]
    other = _draws(seed=4, epochs=2)
    assert len({*sum(draws, ()), *sum(other, ())}) == 10  # all different


def test_without_resume_a_run_starts_anew(tmp_path):
    train(tmp_path)
    assert len(train(tmp_path, resume=False)[2]) == 4
    assert len(checkpoint.read(tmp_path / "state.pt")["history"].splitlines()) == 4


@pytest.mark.parametrize("every", [1, 3, 50])
def test_a_loss_that_is_not_finite_is_reported_with_its_place(tmp_path, every, monkeypatch):
    """However seldom the losses are looked at; and the state of the epoch before stays."""
    monkeypatch.setitem(LOOK_EVERY, "cpu", every)
    seen = []

    def broken(model, x, y, step):
        seen.append(step.epoch)
        return model(x).sum() * (math.nan if step.epoch == 1.25 else 1.0)

    model = build("linf-mlp", shape=(1, 4, 4), classes=2, width=8, depth=2)
    with pytest.raises(FloatingPointError, match=r"loss is nan in epoch 1, step 1 \(p=\d+\)"):
        fit(
            model,
            broken,
            adam(model, 0.1),
            SCHEDULE,
            *problem(),
            batch_size=16,
            progress=False,
            state_path=tmp_path / "state.pt",
        )
    assert seen[-1] == {1: 1.25, 3: 1.5, 50: 1.75}[every]
    assert len(checkpoint.read(tmp_path / "state.pt")["history"].splitlines()) == 1


def test_weights_that_the_last_step_of_an_epoch_spoilt_are_not_saved(tmp_path):
    def spoil(model, step, lr):
        if step.epoch == 1.75:  # the loss was finite
            model[2].weight.grad[0, 0] = math.nan

    model = build("linf-mlp", shape=(1, 4, 4), classes=2, width=8, depth=2)
    with pytest.raises(FloatingPointError, match="2.weight is no longer finite after epoch 1"):
        fit(
            model,
            Loss(),
            adam(model, 0.1),
            SCHEDULE,
            *problem(),
            batch_size=16,
            progress=False,
            after_backward=spoil,
            state_path=tmp_path / "state.pt",
        )
    assert len(checkpoint.read(tmp_path / "state.pt")["history"].splitlines()) == 1


def test_the_log_has_each_epoch_once(tmp_path):
    """Interrupted after the epoch was logged, or before: the log says what the state says."""
    with Log(tmp_path / "log.jsonl") as log:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, interrupt_at=2.25, log=log)
        with open(log.path, "a") as f:
            f.write('{"epoch": 2, "lo')
        history = train(tmp_path, resume=True, log=log)[2]
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == history
    assert [h["steps"] for h in history] == [4, 8, 12, 16] and history[0]["lr"] < 0.05
    assert all(h["images_per_second"] == pytest.approx(60 / h["seconds"]) for h in history)


def test_the_bar_shows_the_last_validation(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    train(tmp_path, progress=True, **OPTIONS["chosen"])
    text = capsys.readouterr().err
    assert all(word in text for word in ("loss=", "p=inf", "eps=0.1", "certified=", "clean=", "~certified="))


def test_only_the_first_process_shows_a_bar(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(Ranks, "main", property(lambda self: False))
    train(tmp_path, progress=True)
    assert capsys.readouterr().err == ""


def test_the_hook_sees_gradients_and_the_current_rate():
    seen = []
    model = build("linf-mlp", shape=(1, 4, 4), classes=2, width=8, depth=2)

    def hook(model, step, lr):
        assert all(p.grad is not None for p in model.parameters())
        seen.append((lr, 0.05 * step.lr_factor))

    fit(model, Loss(), adam(model, 0.05), SCHEDULE, *problem(), batch_size=30, after_backward=hook, progress=False)
    assert len(seen) == 8 and all(a == b for a, b in seen) and seen[0][0] == 0.05


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"y": torch.zeros(3)}, "x and y"),
        ({"average": 1.0}, "average"),
        ({"validate_every": 0}, "validate_every"),
        ({"budget": 0.0}, "budget"),
        ({"budget": math.nan}, "budget"),
        ({"budget": math.inf}, "budget"),
    ],
)
def test_wrong_sizes_are_named(change, name):
    model = build("linf-mlp", shape=(1, 4, 4), classes=2, width=8, depth=2)
    x, y = problem()
    arguments = {"x": x, "y": y, "batch_size": 8, **change}
    with pytest.raises(ValueError, match=name):
        fit(model, Loss(), adam(model, 0.1), SCHEDULE, **arguments, progress=False)

"""Budgets: durations, what is measured, and that measuring leaves no trace."""

import math
import time

import pytest
import torch

from linf_plugin import build
from linf_plugin.training import Schedule, adam, budgets
from linf_plugin.training.iteration import Iteration

SCHEDULE = Schedule(epochs=20, eps=0.1, p_end=18)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20m", 1200), ("1h30m", 5400), ("1h", 3600), ("1h0m5s", 3605), (" 2m", 120)]
)
def test_durations(text, seconds):
    assert budgets.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "m", "0s", "0h0m", "-5m", "1.5h", "30m1h", "5 m", "20min", "1d"])
def test_what_is_no_duration_is_named(text):
    with pytest.raises(ValueError, match=f"{text!r} is not a duration such as 90s"):
        budgets.parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1s"), (90, "1m30s"), (599, "9m59s"), (600, "10m"), (601, "11m"), (5399, "1h30m"), (0, "0s")],
)
def test_durations_in_words(seconds, words):
    assert budgets.in_words(seconds) == words


def slow(costs: dict[bool, float], clock: list[float]):
    """An iteration whose loss takes a made-up time: of p < ∞, of p = ∞."""

    def loss(model, x, y, step):
        clock[0] += costs[step.p == math.inf]
        return model(x).square().mean()

    model = build("linf-mlp", shape=(1, 2, 2), classes=2, width=4, depth=2)
    optimizer = adam(model, 0.1)
    x, y = torch.rand(50, 1, 2, 2), torch.zeros(50, dtype=torch.long)
    iterate = Iteration(model, loss, optimizer, SCHEDULE, x, y, 10, [0.1] * len(optimizer.param_groups))
    return iterate, {"model": model, "optimizer": optimizer}


@pytest.fixture
def clock(monkeypatch):
    """A clock that only advances where a test says so."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def fit(iterate, parts, clock, budget, each_epoch=None, once=None):
    return budgets.fit_schedule(iterate, parts, budget, 0, began=clock[0], each_epoch=each_epoch or {}, once=once or {})


def test_epochs_fill_the_budget_at_the_cost_of_the_whole_schedule(clock):
    iterate, parts = slow({False: 0.02, True: 0.002}, clock)

    def validate():
        clock[0] += 0.1

    def finish():
        clock[0] += 0.5

    began = clock[0]
    fitted = fit(iterate, parts, clock, 100.0, {validate: 0.5}, {finish: 2})
    spent = clock[0] - began
    points = [SCHEDULE.at((i + 0.5) / 12 * 20).p for i in range(12)]
    epoch = 5 * sum(0.002 if p == math.inf else 0.02 for p in points) / 12 + 0.05
    assert fitted.schedule.epochs == int((0.95 * 100 - spent - 1.0) / epoch) > 500
    assert fitted.predicted == pytest.approx(spent + 1.0 + fitted.schedule.epochs * epoch)
    assert fitted.predicted <= 95
    assert fitted.schedule == SCHEDULE.scaled(fitted.schedule.epochs)
    epochs = fitted.schedule.epochs
    assert str(fitted).startswith(f"{epochs} epochs (instead of 20) fit into 1m40s; predicted: 1m3")


def test_a_slow_net_is_timed_on_few_iterations(clock):
    iterate, parts = slow({False: 10.0, True: 10.0}, clock)
    began = clock[0]
    assert fit(iterate, parts, clock, 2000.0).schedule.epochs > 5
    assert clock[0] - began == 12 * 2 * 10  # one to warm up, one to time, at each point


def test_a_budget_that_is_too_short_says_what_it_takes(clock):
    iterate, parts = slow({False: 1.0, True: 1.0}, clock)
    with pytest.raises(ValueError, match="20s is too short: an epoch takes about 5s here, and 5 epochs") as error:
        fit(iterate, parts, clock, 20.0)
    needed = budgets.parse_duration(str(error.value).rsplit(" ", 1)[1])
    assert fit(iterate, parts, clock, needed).schedule.epochs == 5


def test_a_schedule_of_fewer_epochs_than_the_least_may_stay(clock):
    iterate, parts = slow({False: 0.1, True: 0.1}, clock)
    iterate.schedule = Schedule(epochs=2, eps=0.1)
    assert fit(iterate, parts, clock, 5.2).schedule.epochs >= 2


def test_what_timing_changes_is_put_back(clock):
    iterate, parts = slow({False: 0.1, True: 0.1}, clock)
    before = {name: value.clone() for name, value in iterate.model.state_dict().items()}
    random = torch.get_rng_state()
    fit(iterate, parts, clock, 100.0)
    assert all(torch.equal(value, before[name]) for name, value in iterate.model.state_dict().items())
    assert not iterate.optimizer.state and {g["lr"] for g in iterate.optimizer.param_groups} == {0.1}
    assert all(p.grad is None for p in iterate.model.parameters())
    assert torch.equal(torch.get_rng_state(), random)

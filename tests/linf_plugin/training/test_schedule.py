"""Schedules at their corners."""

import math
from dataclasses import asdict, fields, replace

import pytest

from linf_plugin.training import Schedule
from linf_plugin.training.schedule import snapped


def test_p_rises_geometrically_and_ends_at_infinity():
    schedule = Schedule(epochs=20, eps=0.1, p_start=2, p_end=12, snap=False)
    assert schedule.at(0).p == schedule.at(2).p == 8
    assert schedule.at(7).p == pytest.approx(math.sqrt(8 * 1000))
    assert schedule.at(11.999).p < 1000 and schedule.at(12).p == math.inf
    assert [schedule.at(e).progress for e in (0, 7, 12, 20)] == [0, 0.5, 1, 1]


def test_without_a_ramp_p_is_infinite_at_once():
    assert Schedule(epochs=1, eps=0.1).at(0).p == math.inf


def test_snapped_p_has_cheap_powers_and_is_near_the_exact_one():
    exact, cheap = (Schedule(epochs=10, eps=0.1, p_end=10, snap=s) for s in (False, True))
    epochs = [e / 50 for e in range(500)]
    visited = sorted({cheap.at(e).p for e in epochs})
    assert visited == [octave * step for octave in (8, 16, 32, 64, 128, 256, 512) for step in (1, 1.25, 1.5)] + [1024]
    assert all(3 / 4 <= (cheap.at(e).p / exact.at(e).p) ** 2 <= 4 / 3 for e in epochs)


@pytest.mark.parametrize(
    ("p", "snap"), [(1, 1), (1.3, 1), (1.5, 2), (2.4, 2), (2.5, 3), (4.9, 5), (7.2, 8), (8.9, 8), (9, 10), (2000, 2048)]
)
def test_snapping_keeps_small_exponents_whole(p, snap):
    assert snapped(p) == snap


def test_eps_rises_linearly():
    schedule = Schedule(epochs=10, eps=0.3, eps_start=2, eps_end=6)
    assert [schedule.at(e).eps for e in (0, 2, 4, 6, 9)] == pytest.approx([0, 0, 0.15, 0.3, 0.3])


def test_smooth_eps_is_quartic_then_linear_with_one_slope():
    schedule = Schedule(epochs=10, eps=1.0, eps_end=10, eps_smooth=0.4)
    k, joint, h = 1 / ((4 - 1.2) * 0.4**3), 0.4 / (4 - 1.2), 1e-6
    assert schedule.at(2).eps == pytest.approx(k * 0.2**4)
    assert schedule.at(4).eps == pytest.approx(joint) and schedule.at(10).eps == 1
    before, after = ((schedule.at(4 + a).eps - schedule.at(4 + b).eps) / h for a, b in ((0, -h), (h, 0)))
    assert before == pytest.approx(after, rel=1e-4)


def test_lr_is_a_cosine_from_its_start():
    schedule = Schedule(epochs=10, eps=0.1, lr_start=4)
    assert [schedule.at(e).lr_factor for e in (0, 4, 7, 10)] == pytest.approx([1, 1, 0.5, 0])


def test_lr_drops():
    schedule = Schedule(epochs=10, eps=0.1, lr_drops=(5, 8), lr_drop_factor=0.1)
    assert [schedule.at(e).lr_factor for e in (4.9, 5, 8)] == pytest.approx([1, 0.1, 0.01])


@pytest.mark.parametrize("epochs", [1, 7, 30, 1000])
def test_a_scaled_schedule_is_the_same_course_in_another_time(epochs):
    whole = Schedule(
        epochs=20, eps=0.3, p_start=2, p_end=15, eps_start=1, eps_end=9, eps_smooth=0.4, lr_start=3, average_start=5
    )
    for schedule in (whole, replace(whole, lr_drops=(12, 16))):
        scaled = schedule.scaled(epochs)
        assert scaled.epochs == epochs and scaled.average_start / epochs == pytest.approx(5 / 20)
        for part in (0, 0.03, 0.11, 0.31, 0.5, 0.61, 0.79, 0.81, 0.99):
            ours, theirs = scaled.at(part * epochs), schedule.at(part * 20)
            assert ours.p == theirs.p
            for name in ("eps", "progress", "lr_factor"):
                assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-9), name


def test_every_time_of_a_schedule_is_scaled():
    """Whatever is not a time is listed here: a new field has to be put on one side."""
    others = {"eps", "p_first", "p_last", "snap", "eps_smooth", "lr_drop_factor"}
    times = {f.name: 2 for f in fields(Schedule) if f.name not in others}
    some = {"lr_drops": (2, 4), "average_start": 1}  # an average starts before the end
    schedule = Schedule(**times | some | {"eps": 0.1})
    scaled = schedule.scaled(6)
    assert asdict(scaled) == asdict(schedule) | dict.fromkeys(times, 6) | {"lr_drops": (6, 12), "average_start": 3}
    assert schedule.scaled(2) is schedule


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"epochs": 0}, "epochs"),
        ({"eps": -0.1}, "eps"),
        ({"eps": 8}, "eps"),
        ({"p_first": 0.5}, "p_first"),
        ({"p_start": 3, "p_end": 2}, "p_end"),
        ({"eps_start": 3, "eps_end": 2}, "eps_end"),
        ({"eps_smooth": 1.0}, "eps_smooth"),
        ({"average_start": -1}, "average_start"),
        ({"average_start": 5}, "average_start"),
    ],
)
def test_wrong_values_are_named(wrong, name):
    with pytest.raises(ValueError, match=name):
        Schedule(**{"epochs": 5, "eps": 0.1, **wrong})

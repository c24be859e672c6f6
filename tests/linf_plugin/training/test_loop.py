"""The loop: it learns, stops and goes on bit by bit, and reports trouble."""

import math

import pytest
import torch
from torch import nn

from linf_plugin import build, checkpoint
from linf_plugin.layers import MeanShift, distance_layers
from linf_plugin.training import Schedule, adam, clipped_hinge, fit, shift_and_flip

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


def problem():
    """Which half of the image is brighter."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(60, 1, 4, 4, generator=generator)
    y = torch.arange(60) % 2
    x[y == 0, :, :2] += 1
    x[y == 1, :, 2:] += 1
    return x / 2, y


NETS = {"linf-mlp": dict(depth=2), "sortnet-mlp": dict(depth=3, rho=0.5, k=4, group=6)}


def train(tmp_path, interrupt_at=None, resume=False, schedule=SCHEDULE, identity=None, name="linf-mlp", **kwargs):
    torch.manual_seed(5)
    model, loss = build(name, shape=(1, 4, 4), classes=2, width=8, **NETS[name]), Loss(interrupt_at)
    torch.seed()  # what ``fit`` draws depends on its own seed alone
    trained = fit(
        model, loss, adam(model, 0.05, loss, 0.01), schedule, *problem(), batch_size=16, seed=2,
        augment=lambda x, g: shift_and_flip(x, g, pixels=1), state_path=tmp_path / "state.pt", resume=resume,
        identity=identity, progress=False, **kwargs,
    )
    return model, loss, trained.history


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


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("epoch", [1.0, 2.25, 3.75])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, epoch, name):
    whole, loss, history = train(tmp_path / "whole", name=name)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", interrupt_at=epoch, name=name)
    model, loss_again, history_again = train(tmp_path / "cut", resume=True, name=name)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    assert torch.equal(loss.scalar, loss_again.scalar)
    assert [h["loss"] for h in history] == [h["loss"] for h in history_again]


@pytest.mark.parametrize("name", NETS)
def test_the_same_seed_gives_the_same_bits(tmp_path, name):
    one, two = (train(tmp_path / folder, name=name)[0].state_dict() for folder in "ab")
    assert all(torch.equal(v, two[k]) for k, v in one.items())


def _draws(seed: int, epochs: int) -> list[tuple[float, ...]]:
    """What a layer draws from torch's generator, a tuple an epoch of two steps."""
    drawn = []

    def loss(model, x, y, step):
        drawn.append((step.epoch, torch.rand(()).item()))
        return model(x).sum()

    model = build("linf-mlp", shape=(1, 4, 4), classes=2, width=8, depth=2)
    fit(
        model, loss, adam(model, 0.1), Schedule(epochs=epochs, eps=0.1, p_end=1), *problem(), batch_size=30,
        seed=seed, progress=False,
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


def test_the_state_of_another_run_is_refused(tmp_path):
    train(tmp_path, identity={"seed": 1})
    with pytest.raises(ValueError, match="another run"):
        train(tmp_path, resume=True, identity={"seed": 2})


def test_a_loss_that_is_not_finite_is_reported_with_its_place():
    model = build("linf-mlp", shape=(1, 4, 4), classes=2, width=8, depth=2)

    def loss(model, x, y, step):
        return model(x).sum() * (math.nan if step.epoch >= 1.25 else 1.0)

    with pytest.raises(FloatingPointError, match="epoch 1, step 1"):
        fit(model, loss, adam(model, 0.1), SCHEDULE, *problem(), batch_size=16, progress=False)


def test_the_hook_sees_gradients_and_the_current_rate():
    seen = []
    model = build("linf-mlp", shape=(1, 4, 4), classes=2, width=8, depth=2)

    def hook(model, step, lr):
        assert all(p.grad is not None for p in model.parameters())
        seen.append((lr, 0.05 * step.lr_factor))

    fit(
        model, Loss(), adam(model, 0.05), SCHEDULE, *problem(), batch_size=30, after_backward=hook, progress=False
    )
    assert len(seen) == 8 and all(a == b for a, b in seen) and seen[0][0] == 0.05


@pytest.mark.parametrize(
    ("change", "name"), [({"batch_size": 0}, "batch_size"), ({"y": torch.zeros(3)}, "x and y")]
)
def test_wrong_sizes_are_named(change, name):
    model = build("linf-mlp", shape=(1, 4, 4), classes=2, width=8, depth=2)
    x, y = problem()
    arguments = {"x": x, "y": y, "batch_size": 8, **change}
    with pytest.raises(ValueError, match=name):
        fit(model, Loss(), adam(model, 0.1), SCHEDULE, **arguments, progress=False)

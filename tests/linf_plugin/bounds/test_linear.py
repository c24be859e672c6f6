"""Substitution through the lines by itself: sound for every combination of outputs, with any weights."""

import math

import pytest
import torch
from cases import each_conv, each_p, each_sort

from linf_plugin.bounds import linear
from linf_plugin.kernels import reference

ROUNDING = 1e-12  # of sums of up to 100 float64 numbers of size up to 10


def boxes(n=3, out=5, features=6, width=1.0):
    lower = torch.randn(n, features, dtype=torch.float64)
    return (
        lower,
        lower + width * torch.rand(n, features, dtype=torch.float64),
        torch.randn(out, features, dtype=torch.float64),
    )


def inside(lower, upper, samples=300):
    """Points of each box: random ones, and random corners."""
    for i in range(samples):
        at = torch.rand_like(lower)
        yield lower + (at.round() if i % 2 else at) * (upper - lower)


def weights(blocks, S, batch):
    """Random ones, some of them negative: (2, J, S, B, neurons)."""
    start, below = linear.starting_weights(blocks)
    assert start.shape[1:] == (batch, blocks.neurons) and 0 < below < len(start)
    return torch.randn(2, len(start), S, batch, blocks.neurons, dtype=torch.float64)


def check(blocks, function, lower, upper, many):
    """lA·y ≥ lA'·x + lbias and uA·y ≤ uA'·x + ubias at points of the box."""
    y = function(lower).flatten(1)
    A = torch.randn(7, *y.shape, dtype=torch.float64)
    alpha = weights(blocks, 7, len(y)) if many else None
    lA, lbias, uA, ubias = linear.back_substitute(blocks, A, A, alpha)
    assert (
        lA.shape == uA.shape == (7, len(lower), math.prod(lower.shape[1:]))
        and lbias.shape == ubias.shape == A.shape[:2]
    )
    for x in inside(lower, upper):
        value = (A * function(x).flatten(1)).sum(2)
        scale = ROUNDING * (1 + A.abs().sum(2))
        assert ((lA * x.flatten(1)).sum(2) + lbias <= value + scale).all()
        assert ((uA * x.flatten(1)).sum(2) + ubias >= value - scale).all()


each_choice = pytest.mark.parametrize("many", [False, True], ids=["defaults", "weights"])


@each_p
@each_choice
def test_back_substitution_bounds_every_combination(p, many):
    lower, upper, w = boxes()
    check(linear.dist_blocks(lower, upper, w, p), lambda x: reference.dist(x, w, p), lower, upper, many)


@each_sort
@each_choice
def test_back_substitution_bounds_every_combination_of_sorted_sums(sort, many):
    lower, upper, w = boxes()
    blocks = linear.sorted_dist_blocks(lower, upper, w, *sort)
    check(blocks, lambda x: reference.sorted_dist(x, w, *sort), lower, upper, many)


@each_conv
@each_choice
@pytest.mark.parametrize("p", [2.0, math.inf], ids=["p=2", "p=inf"])
def test_back_substitution_bounds_every_combination_of_windows(conv_case, p, many):
    shape, w_shape, conv = conv_case
    lower = torch.randn(shape, dtype=torch.float64)
    upper = lower + 0.5 * torch.rand_like(lower)
    w = torch.randn(w_shape, dtype=torch.float64)
    blocks = linear.dist_conv2d_blocks(lower, upper, w, p, *conv)
    check(blocks, lambda x: torch.ops.linf.dist_conv2d(x, w, p, *conv), lower, upper, many)


@pytest.mark.parametrize("p", [3.0, math.inf], ids=["p=3", "p=inf"])
def test_starting_weights_are_the_defaults(p):
    lower, upper, w = boxes(out=13)
    blocks = linear.dist_blocks(lower, upper, w, p)
    A = torch.randn(4, 3, 13, dtype=torch.float64)
    start, _ = linear.starting_weights(blocks)
    alpha = torch.stack([start, start]).unsqueeze(2)  # for all specifications the same
    for ours, theirs in zip(linear.back_substitute(blocks, A, A, alpha), linear.back_substitute(blocks, A, A)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_a_side_that_is_not_asked_for_is_none():
    lower, upper, w = boxes()
    A = torch.randn(2, 3, 5, dtype=torch.float64)
    blocks = linear.dist_blocks(lower, upper, w, math.inf)
    both = linear.back_substitute(blocks, A, A)
    low = linear.back_substitute(blocks, A, None)
    up = linear.back_substitute(blocks, None, A)
    assert low[2:] == (None, 0.0) and up[:2] == (None, 0.0)
    for ours, theirs in zip((*low[:2], *up[2:]), both, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["dist, p=8", "dist, p=inf", "sorted", "windows, p=8", "windows, p=inf"])
def test_blocks_do_not_change_the_result(kind, monkeypatch):
    p = 8.0 if "p=8" in kind else math.inf
    if "windows" in kind:
        lower = torch.randn(2, 4, 5, 4, dtype=torch.float64)
        w, constants = torch.randn(6, 2, 3, 2, dtype=torch.float64), (p, [1, 2], [1, 1], [1, 1], 2)
        upper, make = lower + 0.3, linear.dist_conv2d_blocks
    else:
        lower, upper, w = boxes(out=13)
        make, constants = (linear.sorted_dist_blocks, (0.4, 3)) if kind == "sorted" else (linear.dist_blocks, (p,))
    blocks = make(lower, upper, w, *constants)
    A = torch.randn(3, len(lower), blocks.neurons, dtype=torch.float64)
    alpha = weights(blocks, 3, len(lower))
    coefficients = [torch.randn(len(lower), 5, lower[0].numel(), dtype=torch.float64) for _ in range(2)]
    ends = coefficients[0], lower.flatten(1), coefficients[1], upper.flatten(1)

    def everything(blocks):
        return [
            *linear.back_substitute(blocks, A, A, alpha),
            *linear.back_substitute(blocks, A, A),
            *linear.forward_substitute(blocks, *ends),
            linear.starting_weights(blocks)[0],
        ]

    whole = everything(blocks)
    monkeypatch.setattr(linear, "BLOCK_BYTES", 1)
    blocks = make(lower, upper, w, *constants)
    assert len(list(blocks.walk(False))) == blocks.neurons
    for ours, theirs in zip(everything(blocks), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_lines_are_remembered_for_the_same_box_and_weights_only():
    lower, upper, w = boxes()
    memory, calls = linear.Memory(), []

    def recall(*key):
        blocks = linear.dist_blocks(*key, math.inf)
        walk = blocks.walk
        return memory.recall(blocks._replace(walk=lambda many: calls.append(many) or walk(many)), *key)

    A = torch.randn(2, 3, 5, dtype=torch.float64)
    for _ in range(3):
        linear.back_substitute(recall(lower.clone(), upper, w), A, A)
    assert calls == [False]
    linear.starting_weights(recall(lower, upper, w))
    assert calls == [False, True]
    w.data[0, 0] += 1  # which no version counter sees
    found = linear.back_substitute(recall(lower, upper, w), A, A)
    assert calls == [False, True, False]
    for ours, theirs in zip(found, linear.back_substitute(linear.dist_blocks(lower, upper, w, math.inf), A, A)):
        assert torch.equal(ours, theirs)
    recall(lower, upper, w.requires_grad_()).walk(False)
    recall(lower, upper, w).walk(False)
    assert calls == [False, True, False, False, False]  # gradients are wanted anew each time
    dense = linear.dist_blocks(lower, upper, w.detach(), 2.0)
    assert memory.recall(dense, lower, upper, w.detach()) is dense  # too large to keep


def test_a_layer_of_any_width_is_treated_a_block_at_a_time():
    """No (batch, out, in) tensor is held whole: 30 MB here, in blocks of at most 4."""
    lower = torch.rand(4, 700, dtype=torch.float64)
    w = torch.randn(1400, 700, dtype=torch.float64)
    rows = [len(block.neurons) for block in linear.dist_blocks(lower, lower + 0.1, w, 2.0).walk(True)]
    assert sum(rows) == 1400 and max(rows) * 700 * 4 * 8 <= linear.BLOCK_BYTES


def forward_case(function, blocks, lower, upper):
    """y between its lines where x is anything between its own, for x₀ in [0, 1]^5."""
    batch, features = len(lower), math.prod(lower.shape[1:])
    middle, reach = (lower + upper).flatten(1) / 2, (upper - lower).flatten(1) / 2
    # |lw·x₀| ≤ reach/2 and lb = middle − reach/2, so that x₀ decides the lower half of the box, and alike for the upper
    lw, uw = (torch.rand(batch, 5, features, dtype=torch.float64) - 0.5 for _ in range(2))
    lw, uw = (a * (reach / 5).unsqueeze(1) for a in (lw, uw))
    lb, ub = middle - reach / 2, middle + reach / 2
    found = linear.forward_substitute(blocks, lw, lb, uw, ub)
    assert found[0].shape == found[2].shape == (batch, 5, blocks.neurons)
    for _ in range(200):
        x0 = torch.rand(batch, 1, 5, dtype=torch.float64).round()
        low, high = (((x0 @ a).squeeze(1) + b) for a, b in ((lw, lb), (uw, ub)))
        x = (low + torch.rand_like(low).round() * (high - low)).view_as(lower)
        assert (x >= lower).all() and (x <= upper).all()
        y = function(x).flatten(1)
        assert ((x0 @ found[0]).squeeze(1) + found[1] <= y + 100 * ROUNDING).all()
        assert ((x0 @ found[2]).squeeze(1) + found[3] >= y - 100 * ROUNDING).all()


@each_p
def test_forward_substitution_bounds_the_outputs(p):
    lower, upper, w = boxes()
    forward_case(lambda x: reference.dist(x, w, p), linear.dist_blocks(lower, upper, w, p), lower, upper)


@each_sort
def test_forward_substitution_bounds_sorted_sums(sort):
    lower, upper, w = boxes()
    blocks = linear.sorted_dist_blocks(lower, upper, w, *sort)
    forward_case(lambda x: reference.sorted_dist(x, w, *sort), blocks, lower, upper)


@each_conv
@pytest.mark.parametrize("p", [2.0, math.inf], ids=["p=2", "p=inf"])
def test_forward_substitution_bounds_windows(conv_case, p):
    shape, w_shape, conv = conv_case
    lower = torch.randn(shape, dtype=torch.float64)
    upper = lower + 0.5 * torch.rand_like(lower)
    w = torch.randn(w_shape, dtype=torch.float64)
    blocks = linear.dist_conv2d_blocks(lower, upper, w, p, *conv)
    forward_case(lambda x: torch.ops.linf.dist_conv2d(x, w, p, *conv), blocks, lower, upper)


@pytest.mark.parametrize("p", [3.0, math.inf], ids=["p=3", "p=inf"])
def test_substitution_is_differentiable(p):
    boxed = [a.requires_grad_() for a in boxes(n=2, out=3, features=4)]
    A = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    alpha = torch.rand(2, weights(linear.dist_blocks(*boxed, p), 1, 2).shape[1], 1, 2, 3, dtype=torch.float64)

    def back(A, alpha, *boxed):
        return linear.back_substitute(linear.dist_blocks(*boxed, p), A, A, alpha)

    assert torch.autograd.gradcheck(back, (A, alpha.add(0.1).requires_grad_(), *boxed))
    lw, uw = (torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def forward(lower, upper, w, lw, uw):
        return linear.forward_substitute(linear.dist_blocks(lower, upper, w, p), lw, lower, uw, upper)

    assert torch.autograd.gradcheck(forward, (*boxed, lw, uw))

"""Blocks give the same results for every position of their borders, in bounded memory."""

import pytest
import torch
from cases import EXPONENTS, INF, Calls, box, each_dtype, each_sort, few_p, gradient_tolerance, rows, value_tolerance

from linf_plugin.kernels import blocked, reference


@pytest.mark.parametrize(
    "n, out, features", ((1, 1, 1), (7, 5, 3), (3, 200, 40), (200, 3, 40), (4, 6, 10**6), (0, 5, 3), (5, 0, 3))
)
def test_tiles_cover_every_pair_once_within_the_limit(n, out, features, monkeypatch):
    monkeypatch.setattr(blocked, "BLOCK_BYTES", 4096)
    seen = torch.zeros(n, out)
    for i, k in blocked.tiles(n, (out, features), 4):
        seen[i, k] += 1
        pairs = seen[i, k].numel()
        assert pairs == 1 or pairs * features * 4 <= 4096
    assert torch.equal(seen, torch.ones(n, out))


@few_p
@pytest.mark.parametrize("block_bytes", (1, 100, 999, 3000))
def test_borders_of_blocks_do_not_show(block_bytes, p, monkeypatch):
    (x, w), features = rows((7, 11, 9), dtype=torch.float64), 9
    lower, upper = box(x)
    y, (near, far) = reference.dist(x, w, p), reference.box_dist(lower, upper, w, p)
    grad = torch.rand_like(y) * 2 - 1
    monkeypatch.setattr(blocked, "BLOCK_BYTES", block_bytes)
    tolerance = value_tolerance(torch.float64, p, features)
    for got, expected in ((blocked.dist(x, w, p), y), *zip(blocked.box_dist(lower, upper, w, p), (near, far))):
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=0)
    tolerance = gradient_tolerance(torch.float64, p, features, terms=22)
    for name, args in (
        ("dist_vjp", (grad, x, w, y, p)),
        ("box_dist_vjp", (grad, grad.flip(0), lower, upper, w, near, far, p)),
    ):
        for got, expected in zip(getattr(blocked, name)(*args), getattr(reference, name)(*args)):
            torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


@each_sort
@pytest.mark.parametrize("block_bytes", (1, 100, 999, 3000))
def test_borders_of_blocks_do_not_show_in_sorted_sums(block_bytes, sort, monkeypatch):
    x, w = rows((7, 11, 9), dtype=torch.float64)
    lower, upper = box(x)
    expected = reference.sorted_dist(x, w, *sort), *reference.box_sorted_dist(lower, upper, w, *sort)
    grad = torch.rand_like(expected[0]) * 2 - 1
    monkeypatch.setattr(blocked, "BLOCK_BYTES", block_bytes)
    got = blocked.sorted_dist(x, w, *sort), *blocked.box_sorted_dist(lower, upper, w, *sort)
    for y, z in zip(got, expected):
        assert torch.equal(y, z)
    tolerance = gradient_tolerance(torch.float64, INF, 9, terms=22)
    for name, args in (
        ("sorted_dist_vjp", (grad, x, w, *sort)),
        ("box_sorted_dist_vjp", (grad, grad.flip(0), lower, upper, w, *sort)),
    ):
        for y, z in zip(getattr(blocked, name)(*args), getattr(reference, name)(*args)):
            torch.testing.assert_close(y, z, rtol=0, atol=tolerance)


def test_large_sorted_sums_need_no_large_temporary():
    """x − w for all pairs would be 67 MB."""
    x, w = rows((64, 128, 2048))
    grad = torch.rand(64, 128)
    with Calls() as calls:
        y = blocked.sorted_dist(x, w, 0.5, 10)
        blocked.sorted_dist_vjp(grad, x, w, 0.5, 10)
    assert calls.largest <= max(blocked.BLOCK_BYTES, w.nbytes)
    assert torch.equal(y[-2:, ::9], reference.sorted_dist(x[-2:], w[::9], 0.5, 10))


@pytest.mark.parametrize("p", (3.0, INF), ids=lambda p: f"p={p:g}")
def test_large_problems_need_no_large_temporary(p):
    """x − w for all pairs would be 1 GB; results are checked on both sides of each border of w's blocks."""
    x, w = rows((256, 512, 2048))
    grad = torch.rand(256, 512)
    with Calls() as calls:
        y = blocked.dist(x, w, p)
        blocked.dist_vjp(grad, x, w, y, p)
    assert calls.largest <= max(blocked.BLOCK_BYTES, w.nbytes) <= 8 << 20
    step = blocked.BLOCK_BYTES // (2048 * 4)
    borders = [k for b in range(0, 512, step) for k in (b, b + step - 1)]
    some = [0, 1, 127, 255]
    torch.testing.assert_close(
        y[some][:, borders],
        reference.dist(x[some].double(), w[borders].double(), p).float(),
        rtol=value_tolerance(torch.float32, 3, 2048),
        atol=0,
    )


@each_dtype
@pytest.mark.parametrize("p", (0.5, 7.0, 999.0, 4096.0, 4097.0, *EXPONENTS[:-1]))
def test_power(p, dtype):
    z = torch.cat((torch.linspace(0, 1, 101), torch.tensor([1.001]))).to(dtype)
    expected = z.double() ** p
    y = blocked.power_(z, p)
    assert y is z  # in place
    # Each product rounds once, and later squarings double the error, which gives p·eps.  Products below the smallest
    # normal number lose digits, and a base under 1e-38 may be flushed.
    torch.testing.assert_close(
        y.double(), expected, rtol=max(p, 1) * torch.finfo(dtype).eps, atol=p * torch.finfo(dtype).tiny
    )

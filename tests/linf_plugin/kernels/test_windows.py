"""Windows: unfold is what a convolution sees, fold is its adjoint, and chunks neither show nor grow."""

import pytest
import torch
import torch.nn.functional as F
from cases import CONVS, INF, Calls, each_conv

from linf_plugin.kernels import blocked, windows


def _whole(*shape):
    """Whole numbers, whose sums and products are exact."""
    return torch.randint(-9, 10, shape).double()


@each_conv
def test_unfold_times_kernels_is_a_convolution(conv_case):
    shape, w_shape, conv = conv_case
    x, w = _whole(*shape), _whole(*w_shape)
    expected = F.conv2d(x, w, None, *conv)
    y = windows.unfold(x, w, conv) @ w.reshape(conv[3], len(w) // conv[3], -1).mT
    assert torch.equal(windows.from_rows(y, expected.shape), expected)
    assert torch.equal(windows.to_rows(expected, conv[3]), y)


@pytest.mark.parametrize("conv_case", [pytest.param(c, id=name) for name, c in CONVS.items() if c[0][0]])
def test_fold_is_the_adjoint_of_unfold(conv_case):
    shape, w_shape, conv = conv_case
    x, w = _whole(*shape), _whole(*w_shape)
    columns = windows.unfold(x, w, conv)
    other = _whole(*columns.shape)
    folded = windows.fold(other, len(x), x.shape[2:], w, conv)
    assert folded.shape == x.shape
    assert (columns * other).sum() == (x * folded).sum()


@pytest.mark.parametrize("images", (1, 2, 3), ids=lambda n: f"{n}-at-a-time")
def test_chunks_of_images_do_not_show_and_bound_the_memory(images, monkeypatch):
    x, w, conv = _whole(7, 4, 8, 6), _whole(6, 2, 3, 3), ([1, 1], [1, 1], [1, 1], 2)
    per_image = 4 * 9 * 8 * 6 * 8  # C·kh·kw·H'·W' numbers of 8 bytes
    monkeypatch.setattr(blocked, "BLOCK_BYTES", per_image)

    def run():
        with Calls() as calls:
            y, = windows.apply(lambda x, w: (blocked.dist(x, w, INF),), (x,), w, conv, 1)
            grads = windows.apply_vjp(lambda *a: blocked.dist_vjp(*a, INF), (y.flip(0),), (x,), w, (y,), conv)
        return calls.largest, y, *grads

    at_once, *expected = run()
    assert at_once == 7 * per_image
    monkeypatch.setattr(windows, "WINDOW_BYTES", images * per_image + 1)
    largest, *got = run()
    assert largest <= max(images * per_image, *(a.nbytes for a in got))
    assert all(map(torch.equal, got, expected))

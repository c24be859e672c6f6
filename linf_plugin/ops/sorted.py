"""``sorted_dist``, SortNet's sorted sums, and their range over boxes.  Blocked PyTorch runs on every device."""

from torch import Tensor

from ..arguments import check_k, check_operands, check_pairs, check_rho, check_shape, check_tensors
from ..kernels import blocked, composed
from .distance import check_ends, empty_pairs
from .operator import define, like, reverse_of, some


def check_coefficients(rho, k):
    """Raises TypeError or ValueError unless ρ lies in (0, 1] and k is a count."""
    check_rho(rho)
    check_k(k)


# ``sorted_dist``.


def _sorted_dist(x: Tensor, w: Tensor, rho: float, k: int) -> Tensor:
    return blocked.sorted_dist(x, w, rho, k)


def _check(x, w, rho, k):
    check_operands(x=x, w=w)
    check_pairs(x, w)
    check_coefficients(rho, k)


def _sorted_dist_backward(
    grad: Tensor, x: Tensor, w: Tensor, rho: float, k: int, need_x: bool = True, need_w: bool = True
) -> tuple[Tensor, Tensor]:
    return some((need_x, need_w), blocked.sorted_dist_vjp(grad, x, w, rho, k), x)


def _check_backward(grad, x, w, rho, k, *wanted):
    check_operands(x=x, w=w, grad=grad)
    check_pairs(x, w)
    check_shape("grad", grad, (x.shape[0], w.shape[0]))
    check_coefficients(rho, k)


sorted_dist_backward = define(
    _sorted_dist_backward,
    tensors=3,
    check=_check_backward,
    shapes=lambda grad, x, w, rho, k, *wanted: some(wanted, like(x, w), x),
    composed=lambda grad, x, w, rho, k, *wanted: some(wanted, composed.sorted_dist_vjp(grad, x, w, rho, k), x),
)


sorted_dist_operator = define(
    _sorted_dist,
    tensors=2,
    check=_check,
    shapes=lambda x, w, rho, k: empty_pairs(x, w),
    composed=composed.sorted_dist,
    reverse=reverse_of(sorted_dist_backward, 2, save_outputs=False),
    rows=1,
    float32=True,
)


def sorted_dist(x: Tensor, w: Tensor, rho: float, k: int = 10, check: bool = False) -> Tensor:
    """Returns sorted sums: y[n, j] = Σ_i c_i·|x[n] − w[j]|_(i) over the K = min(k, in) largest |t|, largest first.

    c_i = ρ(1−ρ)^{i−1} / (1−(1−ρ)^K).  ρ = 1 gives ``dist`` at p = ∞.  With k ≥ in, the sorted sum is the mean of
    the ℓ∞ distance over random non-empty subsets of the coordinates; a subset keeps each coordinate with probability ρ.
    Zhang et al., "Rethinking Lipschitz Neural Networks and Certified Robustness: A Boolean Function
    Perspective" (arXiv 2210.01787), section 4.

    It is 1-Lipschitz in ℓ∞.  Because c descends, it is the largest Σ_i c_i·|t_π(i)| over permutations π.  None of these
    sums changes by more than Σ_i c_i ≤ 1 times the largest change of a t.

    Args:
        x, w, check: as for ``dist``.
        rho: ρ in (0, 1].
        k: the largest number of coordinates that count.

    Returns:
        (N, out).  The gradient of the i-th largest coordinate is ±c_i; equal ones keep the order of their indices.

    Raises:
        TypeError, ValueError: as for ``dist``; also if rho or k is not a number or is out of range.
    """
    rho, k = check_rho(rho), check_k(k)
    check_tensors(check, x=x, w=w)
    return sorted_dist_operator(x, w, rho, k)


# ``box_sorted_dist``: the range of ``sorted_dist`` over a box.


def _box_sorted_dist(lower: Tensor, upper: Tensor, w: Tensor, rho: float, k: int) -> tuple[Tensor, Tensor]:
    return blocked.box_sorted_dist(lower, upper, w, rho, k)


def _check_box(lower, upper, w, rho, k):
    check_operands(lower=lower, upper=upper, w=w)
    check_ends(lower, upper, w)
    check_coefficients(rho, k)


def _box_sorted_dist_backward(
    grad_near: Tensor,
    grad_far: Tensor,
    lower: Tensor,
    upper: Tensor,
    w: Tensor,
    rho: float,
    k: int,
    need_lower: bool = True,
    need_upper: bool = True,
    need_w: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    wanted = (need_lower, need_upper, need_w)
    return some(wanted, blocked.box_sorted_dist_vjp(grad_near, grad_far, lower, upper, w, rho, k), w)


def _check_box_backward(grad_near, grad_far, lower, upper, w, rho, k, *wanted):
    check_operands(lower=lower, upper=upper, w=w, grad_near=grad_near, grad_far=grad_far)
    check_ends(lower, upper, w)
    for name, a in (("grad_near", grad_near), ("grad_far", grad_far)):
        check_shape(name, a, (lower.shape[0], w.shape[0]))
    check_coefficients(rho, k)


box_sorted_dist_backward = define(
    _box_sorted_dist_backward,
    tensors=5,
    check=_check_box_backward,
    shapes=lambda gn, gf, lower, upper, w, rho, k, *wanted: some(wanted, like(lower, upper, w), w),
    composed=lambda gn, gf, lower, upper, w, rho, k, *wanted: some(
        wanted, composed.box_sorted_dist_vjp(gn, gf, lower, upper, w, rho, k), w
    ),
)


box_sorted_dist_operator = define(
    _box_sorted_dist,
    tensors=3,
    check=_check_box,
    shapes=lambda lower, upper, w, rho, k: (empty_pairs(lower, w), empty_pairs(lower, w)),
    composed=composed.box_sorted_dist,
    reverse=reverse_of(box_sorted_dist_backward, 3, save_outputs=False),
    rows=2,
    float32=True,
)

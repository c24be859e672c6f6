"""What a runtime may make one sum of, and how often its terms are then rounded."""

import torch
import torch.nn.functional as F
from torch import nn

from linf_plugin.float32.operations import OF_OPERATIONS
from linf_plugin.float32.rules import Reach, gamma
from linf_plugin.graphs.capture import capture
from linf_plugin.graphs.fusion import later_roundings
from linf_plugin.graphs.operations import Add, Affine


class Residual(nn.Module):
    def __init__(self, skip: nn.Module):
        super().__init__()
        self.first, self.norm, self.skip, self.head = (
            nn.Conv2d(2, 2, 3, padding=1),
            nn.BatchNorm2d(2),
            skip,
            nn.Linear(8, 3),
        )

    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(torch.relu(self.norm(self.first(x)) + self.skip(x)), 2).flatten(1))


def parts_of(skip: nn.Module) -> list[nn.Module]:
    return list(capture(Residual(skip).eval(), torch.rand(1, 2, 4, 4)).parts)


def test_a_sum_after_a_convolution():
    """The convolution counts one rounding more, beside those of the normalisation, and the sum as many as a term."""
    convolution, norm, add, *_ = parts_of(nn.Identity())
    assert isinstance(convolution, nn.Conv2d) and isinstance(norm, Affine) and isinstance(add, Add)
    assert later_roundings(convolution) == 13 + 1
    assert norm.fused == add.fused == 2 * 9 + 1 + 13 + 1


def test_a_sum_after_two_convolutions():
    """Either of them may be the one that begins at the other."""
    parts = parts_of(nn.Conv2d(2, 2, 5, padding=2))
    short, long = (m for m in parts if isinstance(m, nn.Conv2d))
    (add,) = (m for m in parts if isinstance(m, Add))
    assert (later_roundings(short), later_roundings(long)) == (14, 1)
    assert add.fused == 2 * 25 + 1 + 1


def test_a_sum_of_what_others_take_too():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            y = self.layer(x)
            return y.relu() + y

    layer, _, add = capture(Twice().eval(), torch.rand(1, 3)).parts
    assert later_roundings(layer) == 0 and add.fused == 0


def test_terms_that_cancel():
    """The sum is far smaller than its terms: each of them may be rounded ``fused`` times."""
    add = Add()
    point = [torch.tensor([[1024.0]], dtype=torch.float64), torch.tensor([[-1024.0]], dtype=torch.float64)]
    x, y = (Reach(a, a, torch.zeros_like(a)) for a in point)
    once = OF_OPERATIONS[Add](add, x, y).error
    add.fused = 100
    assert once < 1e-30 and gamma(100) * 2048 <= OF_OPERATIONS[Add](add, x, y).error < 1.01 * gamma(100) * 2048


def test_sorted_values_without_their_places():
    """Taking the first result apart names the second one too, and nobody uses it."""

    class Sorted(nn.Module):
        def forward(self, x):
            return x.sort(-1, descending=True)[0]

    x = torch.rand(5, 4)
    torch.testing.assert_close(capture(Sorted().eval(), x)(x), x.sort(-1, descending=True)[0])

"""Shifts and flips against indexing by hand."""

import pytest
import torch

from linf_plugin.layers.shifts import CenterCrop
from linf_plugin.training import shift_and_flip


def generator():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("padding, mode", [("edge", "replicate"), ("zero", "constant")])
def test_every_image_is_one_of_its_shifts_and_all_shifts_occur(padding, mode):
    x = torch.rand(200, 2, 5, 4)
    y = shift_and_flip(x, generator(), pixels=1, padding=padding)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode=mode)
    shifts = [padded[:, :, i : i + 5, j : j + 4] for i in range(3) for j in range(3)]
    match = torch.stack([(y == s).flatten(1).all(1) for s in shifts])
    assert match.any(0).all() and match.any(1).all()


def test_half_of_the_images_are_flipped():
    x = torch.rand(400, 1, 3, 4)
    y = shift_and_flip(x, generator(), flip=True)
    flipped = (y == x.flip(3)).flatten(1).all(1)
    assert ((y == x).flatten(1).all(1) ^ flipped).all()
    assert 150 < flipped.sum() < 250  # five standard deviations


def test_the_generator_decides():
    x = torch.rand(20, 1, 6, 6)
    one, two = (shift_and_flip(x, generator(), pixels=2, flip=True) for _ in range(2))
    assert torch.equal(one, two)


def test_nothing_asked_for_changes_nothing():
    x = torch.rand(3, 1, 4, 4)
    assert torch.equal(shift_and_flip(x, generator()), x)


def test_edges_are_repeated_unless_zeros_are_asked_for():
    x = torch.ones(50, 1, 3, 3)
    assert torch.equal(shift_and_flip(x, generator(), pixels=2), x)
    zeros = shift_and_flip(x, generator(), pixels=2, padding="zero") == 0
    assert 0 < zeros.float().mean() < 1


def test_shifted_then_cropped_is_a_random_crop():
    """As a net that begins with a crop sees it: no padding is left, and every crop occurs."""
    x = torch.rand(150, 1, 6, 6)
    y = CenterCrop(4)(shift_and_flip(x, generator(), pixels=1, padding="zero"))
    crops = [x[:, :, i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    match = torch.stack([(y == crop).flatten(1).all(1) for crop in crops])
    assert match.any(0).all() and match.any(1).all()


def test_another_padding_is_refused():
    with pytest.raises(ValueError, match="padding must be one of edge, zero, got 'mirror'"):
        shift_and_flip(torch.rand(1, 1, 2, 2), generator(), padding="mirror")


def test_a_share_of_the_images_stays():
    x = torch.rand(900, 1, 3, 4)
    assert torch.equal(shift_and_flip(x, generator(), pixels=1, share=0.0), x)
    still = (shift_and_flip(x, generator(), pixels=1, share=0.3) == x).flatten(1).all(1)
    assert 600 <= still.sum() <= 720  # 0.7 and a ninth of 0.3: 660, five standard deviations about it


def test_a_share_outside_its_range_is_named():
    with pytest.raises(ValueError, match="share must lie in"):
        shift_and_flip(torch.rand(1, 1, 3, 3), generator(), pixels=1, share=1.5)

"""Shifts and flips against indexing by hand."""

import torch

from linf_plugin.training import shift_and_flip


def generator():
    return torch.Generator().manual_seed(3)


def test_every_image_is_one_of_its_shifts_and_all_shifts_occur():
    x = torch.rand(200, 2, 5, 4)
    y = shift_and_flip(x, generator(), pixels=1)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
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

"""A data set: its digests, its constants, what it says of itself."""

import hashlib

import numpy as np
import pytest
import torch

from linf_plugin.datasets import Dataset, load_dataset
from linf_plugin.datasets.dataset import constants


def toy(name: str = "toy", **tensors) -> Dataset:
    parts = {"x_train": torch.arange(8.0), "x_test": torch.arange(4.0)}
    parts = {key: (x / 8).reshape(-1, 1, 2, 1) for key, x in parts.items()}
    labels = {"y_train": torch.tensor([0, 1, 0, 1]), "y_test": torch.tensor([0, 1])}
    return Dataset(name, **{**parts, **labels, **tensors}, mean=(0.5,), std=0.5)


def test_digests_are_of_the_content():
    """Equal tensors have equal digests in any memory layout.  Each part has its own.  Known digests do not change."""
    data = toy()
    spread = torch.zeros(4, 1, 4, 1)[:, :, ::2].copy_(data.x_train)
    assert not spread.is_contiguous() and toy("other", x_train=spread).digests == data.digests
    for n, digest in zip((4, 2), data.digests):  # as little-endian numbers, on every machine
        images, labels = np.arange(2 * n, dtype="<f4") / 8, np.arange(n, dtype="<i8") % 2
        content = b"[2tensor torch.float32 (%d, 1, 2, 1):%s" % (n, images.tobytes())
        content += b"tensor torch.int64 (%d,):%s" % (n, labels.tobytes())
        assert digest == hashlib.sha256(content).hexdigest()
    assert data.identity == {
        "dataset": "toy",
        "train_data_sha256": data.digests[0],
        "test_data_sha256": data.digests[1],
    }


@pytest.mark.parametrize("field", ("x_train", "y_train", "x_test", "y_test"))
def test_a_digest_notices_every_change(field):
    """One image or label; another shape of the same bits; a change in place after the digest was asked for."""
    data, part = toy(), field.endswith("test")
    before, tensor = data.digests, getattr(data, field)
    changed = tensor.clone()
    changed.view(-1)[1] += 1
    for other in (changed, tensor[None], tensor.double(), tensor.flip(0)):
        after = toy(**{field: other}).digests
        assert after[part] != before[part] and after[not part] == before[not part]
    tensor[0] = 3
    assert data.digests[part] not in before and data.digests[not part] == before[not part]


def test_a_digest_is_of_what_tensors_hold_now():
    """A change through NumPy counts too."""
    x = np.random.default_rng(0).random((4, 1, 2, 1), np.float32)
    data = toy(x_train=torch.from_numpy(x))
    before = data.digests
    x[0] = 0
    assert data.digests[0] != before[0]


# Constants, and what a data set says of itself.


@pytest.mark.parametrize("shape", ((1, 8, 8), (3, 5, 4), (7,)), ids=str)
def test_constants_are_mean_and_std_of_each_channel(shape):
    x = torch.rand(700, *shape) * torch.linspace(0.1, 1, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    mean, std = constants(x)
    expected = x.double().mean([0, *range(2, x.dim())], keepdim=True)
    assert mean == pytest.approx(expected.flatten().tolist(), abs=5.1e-5) and all(type(m) is float for m in mean)
    assert std == pytest.approx((x - expected).square().mean().sqrt().item(), rel=1e-3)


def test_constants_do_not_depend_on_the_order_of_sums():
    x = torch.rand(2000, 3, 4, 4)
    assert constants(x) == constants(x.flip(0, 2, 3))


def test_constants_of_the_digits_are_those_that_are_used():
    data = load_dataset("digits")
    assert constants(torch.cat([data.x_train, data.x_test])) == (data.mean, data.std)


@pytest.mark.parametrize("value", (0.0, 0.1, 1.0))
def test_equal_values_have_no_std(value):
    with pytest.raises(ValueError, match="all samples are equal"):
        constants(torch.full((1000, 3), value))


def test_classes_are_those_of_both_parts_and_of_the_names():
    assert toy().classes == 2 and toy(y_test=torch.tensor([0, 4])).classes == 5
    assert toy(class_names=("a", "b", "c")).classes == 3
    empty = toy(x_train=torch.zeros(0, 1, 2, 1), y_train=torch.zeros(0, dtype=torch.int64))
    assert empty.classes == 2 and empty.shape == (1, 2, 1) and len(set(empty.digests)) == 2

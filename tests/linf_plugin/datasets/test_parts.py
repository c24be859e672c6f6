"""Parts that are kept out of training."""

import numpy as np
import pytest
import torch

from linf_plugin.datasets import DIGESTS, for_training, from_arrays, hold_out, load_dataset
from linf_plugin.datasets.dataset import constants


def test_held_out_images_are_a_stratified_part_of_the_training_set():
    data = load_dataset("digits")
    held = hold_out(data, 0.2)
    assert torch.equal(hold_out(data, 0.2).x_test, held.x_test)
    together = torch.cat((held.x_train, held.x_test)).flatten(1)
    assert len(together) == len(data.x_train)
    assert torch.equal(together.unique(dim=0), data.x_train.flatten(1).unique(dim=0))
    share = torch.bincount(held.y_test, minlength=10) / torch.bincount(data.y_train, minlength=10)
    assert (share - 0.2).abs().max() < 0.01
    assert (held.mean, held.std) == (data.mean, data.std)
    assert held.name == "digits, 0.2 of the training set held out" and not set(held.digests) & set(data.digests)


@pytest.mark.parametrize("fraction", (0, 1, -0.1, 0.001))
def test_a_held_out_part_must_be_a_part(fraction):
    with pytest.raises(ValueError):
        hold_out(load_dataset("digits"), fraction)


# Data without a test part.

RNG = np.random.default_rng(0)


def rows(y, **more):
    y = np.asarray(y)
    return from_arrays(RNG.random((len(y), 3)), y, name="rows", **more)


def test_a_fifth_becomes_the_test_part():
    data = rows(np.arange(100) % 10 // 7)  # 70 and 30
    divided, again = for_training(data), for_training(data)
    assert divided.name == "rows, 0.2 of it as test set"
    assert divided.identity == again.identity and divided.digests[0] != data.digests[0] != divided.digests[1]
    assert divided.y_test.bincount().tolist() == [14, 6] and divided.y_train.bincount().tolist() == [56, 24]
    together = torch.cat([divided.x_train, divided.x_test])
    assert torch.equal(together.unique(dim=0), data.x_test.unique(dim=0)) and len(together) == 100
    assert (divided.mean, divided.std) == constants(divided.x_train) != (data.mean, data.std)
    assert set(divided.identity) == {"dataset", *DIGESTS}


def test_labels_stay_with_their_samples():
    y = np.arange(50) % 5
    divided = for_training(from_arrays(np.repeat(y[:, None], 2, axis=1) / 4, y, name="rows"))
    for x, labels in ((divided.x_train, divided.y_train), (divided.x_test, divided.y_test)):
        assert torch.equal(x[:, 0] * 4, labels.float())


def test_data_with_a_training_part_stay_as_they_are():
    data = rows([0, 1, 1, 0], x_test=RNG.random((2, 3)), y_test=np.array([1, 1]))
    assert for_training(data) is data


def test_names_of_classes_stay_and_count():
    data = rows(np.arange(40) % 4)
    named = type(data)(**{**vars(data), "class_names": ("a", "b", "c", "d")})
    assert for_training(named).class_names == named.class_names
    with pytest.raises(ValueError, match="rows: no training sample is of class 4"):
        for_training(type(data)(**{**vars(data), "class_names": ("a", "b", "c", "d", "e")}))


@pytest.mark.parametrize(
    "y, names",
    (
        (
            np.arange(40) % 4 + 1,
            "rows: no training sample is of class 0, but the classes must be numbered from 0 to 4 ",
        ),
        (
            np.arange(40) % 2 * 7,
            "rows: no training sample is of class 1, but the classes must be numbered from 0 to 7 ",
        ),
        (np.zeros(40, int), "rows: all samples are of class 0, but a net needs two classes"),
        ([*[0] * 20, *[1] * 20, 2], "rows: 0.2 of 41 samples cannot be held out: .*1"),
        (np.arange(8) // 2, "rows: 0.2 of 8 samples cannot be held out: .*2 should be greater or equal to .*4"),
    ),
    ids=("from-1", "gap", "one-class", "one-sample", "few"),
)
def test_data_on_which_no_net_can_be_trained_are_named(y, names):
    with pytest.raises(ValueError, match=names):
        for_training(rows(y))


def test_a_test_label_without_training_samples_is_named():
    data = rows([0, 1, 1, 0], x_test=RNG.random((2, 3)), y_test=np.array([1, 2]))
    with pytest.raises(ValueError, match="rows: a test label is 2, but training has 2 classes"):
        for_training(data)


def test_training_samples_that_are_equal_are_named():
    with pytest.raises(ValueError, match="same: all samples are equal"):
        for_training(from_arrays(np.full((20, 3), 0.3), np.arange(20) % 2, name="same"))

"""Data are compared with what the metadata of a net say about them."""

from dataclasses import replace

import numpy as np
import pytest

from linf_plugin.datasets import OtherData, as_named, check_test_data, for_training, from_arrays, own_name


def toy():
    rng = np.random.default_rng(0)
    return from_arrays(rng.random((8, 3, 2)), np.arange(8) % 2, rng.random((4, 3, 2)), np.arange(4) % 2, name="toy")


def test_test_data_are_compared_with_what_metadata_name():
    data = toy()
    assert check_test_data(data, data.identity, "net.pt")
    assert check_test_data(replace(data, x_train=data.x_train + 1), data.identity, "net.pt")  # only trained on
    assert not check_test_data(data, {"dataset": "toy"}, "net.pt") and not check_test_data(data, {}, "net.pt")
    with pytest.raises(OtherData, match="these are images of toy, and net.pt is about mnist"):
        check_test_data(data, {"dataset": "mnist"}, "net.pt")
    with pytest.raises(OtherData, match="test images and labels of toy here are not those that net.pt is about: it"):
        check_test_data(replace(data, y_test=data.y_test + 1), data.identity, "net.pt")


def test_own_name_of_metadata():
    digests = {"test_data_sha256": "0" * 64}
    assert own_name({"dataset": "mine", **digests}) == "mine"
    assert own_name({"dataset": "mine"}) is own_name({"dataset": "digits", **digests}) is own_name(digests) is None


# A file or folder that was divided for training.


def test_data_are_divided_as_a_net_was_trained():
    rng = np.random.default_rng(0)
    data = from_arrays(rng.random((40, 3)), np.arange(40) % 2, name="mine.npz")
    divided = for_training(data)
    named = {**divided.identity, "dataset": "as I called it"}
    found = as_named(data, named)
    assert (found.digests, found.name) == (divided.digests, "as I called it")
    assert check_test_data(found, named, "net.pt")
    assert as_named(data, data.identity).digests == data.digests  # a net that was tested on all of them
    assert as_named(data, {"dataset": "mine"}) is data and as_named(data, {}) is data


def test_data_of_another_net_stay_as_they_are():
    rng = np.random.default_rng(0)
    data = from_arrays(rng.random((40, 3)), np.arange(40) % 2, name="mine.npz")
    few = from_arrays(rng.random((2, 3)), np.arange(2), name="few.npz")
    for each in (data, few, toy()):
        assert as_named(each, {"dataset": "other", "test_data_sha256": "0" * 64}) is each
    with pytest.raises(OtherData, match="the test samples and labels of mine.npz here are not those that net.pt is a"):
        check_test_data(data, for_training(data).identity, "net.pt")


def test_known_data_under_another_name_keep_it():
    digits = toy()
    assert as_named(digits, {**digits.identity, "dataset": "digits"}).name == "toy"

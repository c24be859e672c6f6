"""Merging by comparators: whatever the values are, and in ReLUs."""

import itertools

import numpy as np
import pytest

from onnx_export.writing.comparators import compare, merge, stages


def applied(comparators, values):
    values = list(values)
    for i, j in comparators:
        values[i], values[j] = max(values[i], values[j]), min(values[i], values[j])
    return values


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 10, 13])
def test_merges(size):
    """Of zeros and ones, and so (0-1 principle) of any values."""
    first, second = list(range(size)), list(range(size, 2 * size))
    comparators, order = merge(first, second)
    assert sorted(order) == first + second
    for a, b in itertools.product(range(size + 1), repeat=2):
        values = [1] * a + [0] * (size - a) + [1] * b + [0] * (size - b)
        merged = applied(comparators, values)
        assert [merged[w] for w in order] == sorted(values, reverse=True)


@pytest.mark.parametrize("size, keep", [(1, 1), (1, 2), (2, 3), (3, 1), (5, 5), (8, 3), (10, 10)])
def test_in_relus(size, keep):
    """The largest, from lists that descend; values only pass through ReLUs that they survive."""
    comparators, order = merge(list(range(size)), list(range(size, 2 * size)))
    order = order[:keep]
    steps = stages(comparators, order)
    random = np.random.default_rng(0)
    for _ in range(20):
        channels = -np.sort(-random.integers(0, 9, (2, size)).astype(float), axis=1).ravel()
        expected = sorted(channels, reverse=True)[:keep]
        wires = dict(enumerate(np.eye(2 * size)))
        for pairs, live in steps:
            rows, wires = compare(wires, pairs, live)
            channels = np.maximum(rows @ channels, 0)
        assert [wires[w] @ channels for w in order] == expected


def test_only_what_is_needed():
    comparators, order = merge(list(range(8)), list(range(8, 16)))
    everything, largest = stages(comparators, order), stages(comparators, order[:1])
    assert sorted(p for pairs, _ in everything for p in pairs) == sorted(comparators)
    assert len(everything) == 4
    assert largest == [([(0, 8)], [0])]
    for pairs, _ in everything:
        wires = [w for pair in pairs for w in pair]
        assert len(wires) == len(set(wires))

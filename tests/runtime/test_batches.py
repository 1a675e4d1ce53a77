"""Batches of responses are the responses that were asked for, in the place that they came from."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlmm.runtime.batches import in_batches, put, take


@pytest.mark.parametrize("index", [[2, 3, 4], [0, 2, 7, 7], [6], [True, False] * 4])
def test_take(index: list[int]) -> None:
    tree = {"a": np.arange(8.0), "b": np.arange(48.0).reshape(2, 3, 8)}
    found = take(tree, np.array(index))
    for name, array in tree.items():
        np.testing.assert_array_equal(found[name], array[..., np.array(index)])


@pytest.mark.parametrize("index", [[], [5], [2, 3, 4], [0, 7], [0, 1, 3]])
def test_put_is_the_way_back(index: list[int]) -> None:
    where, rng = np.array(index, dtype=int), np.random.default_rng(0)
    whole, part = {"a": np.zeros(8), "b": np.zeros((2, 8))}, {"a": rng.random(6), "b": rng.random((2, 6))}
    put(whole, where, part)
    for name, array in whole.items():
        np.testing.assert_array_equal(array[..., where], part[name][..., : len(where)])
        assert not np.delete(array, where, axis=-1).any()


@pytest.mark.parametrize("c", [1, 5, 12])
def test_batches_are_joined_in_order(c: int) -> None:
    x = np.arange(2.0 * c).reshape(2, c)
    np.testing.assert_array_equal(in_batches(lambda index: x[:, index] ** 2, c, 5), x**2)

"""Sums of logarithms by products of mantissas."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlmm._types import float64_scope
from jaxlmm.families.logs import MOST, log_product, sum_of_logs


@pytest.mark.parametrize("n", [1, 2, 3, 7, 40, 41, 4 * MOST + 5])
def test_they_are_those_of_numpy(n: int) -> None:
    rng = np.random.default_rng(n)
    x = 10.0 ** rng.uniform(-76, 76, size=(5, n, 3))
    x[1] = rng.uniform(1 - 1e-9, 1, size=(n, 3))  # whose logarithms nearly cancel
    x[2] = 2.0 ** rng.integers(-200, 200, size=(n, 3))
    with float64_scope():
        found = np.asarray(sum_of_logs(x))
    scale = np.sum(np.abs(np.log(x)), axis=1) + n
    assert np.max(np.abs(found - np.sum(np.log(x), axis=1)) / scale) < 1e-15


def test_without_factors_they_are_0() -> None:
    with float64_scope():
        np.testing.assert_array_equal(sum_of_logs(np.ones((4, 0, 3))), np.zeros((4, 3)))
        assert float(log_product([])) == 0


def test_factors_of_any_size() -> None:
    rng = np.random.default_rng(0)
    factors = 10.0 ** rng.uniform(-300, 300, size=(9, 50))
    with float64_scope():
        np.testing.assert_allclose(log_product([*factors]), np.log(factors).sum(axis=0), rtol=1e-14, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, -2.0, 1e-310])
def test_what_has_no_logarithm_is_nan(bad: float) -> None:
    factors = np.full((4, 3), 1.5)
    factors[2, 1] = bad
    with float64_scope():
        np.testing.assert_array_equal(np.isnan(log_product([*factors])), [False, True, False])
        np.testing.assert_array_equal(np.isnan(sum_of_logs(factors.T)), [False, True, False])

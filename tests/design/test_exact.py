"""Sums of products that are rounded once."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from jaxlmm.design.exact import add_products


def test_sums_that_cancel_are_right_to_the_last_digit() -> None:
    rng = np.random.default_rng(0)
    S = np.where(rng.random((4, 3)) < 0.7, rng.normal(size=(4, 3)) * 1e9, 0.0)
    b = rng.normal(size=(3, 50))
    a = -(S @ b) + rng.normal(size=(4, 50))
    found = add_products(a, S, b)
    for i in range(4):
        for c in range(50):
            exact = Fraction(a[i, c]) + sum(Fraction(S[i, j]) * Fraction(b[j, c]) for j in range(3))
            assert abs(found[i, c] - float(exact)) <= np.spacing(abs(float(exact)))
    assert np.abs(found - (a + S @ b)).max() > 1e-8


def test_bad_values_stay_with_their_response() -> None:
    found = add_products(np.array([[1.0, np.nan, 1.0]]), np.array([[2.0]]), np.array([[1.0, 1.0, np.inf]]))
    np.testing.assert_array_equal(found, [[3.0, np.nan, np.inf]])

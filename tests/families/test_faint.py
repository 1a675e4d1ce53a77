"""Residuals far smaller than the response: the digits of sixty-digit arithmetic at any signal and variance ratio."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from adversarial import oracle

import jaxlmm
from jaxlmm.design.exact import residuals

SIGNALS = [(1.0, 1e5), (1.0, 1e8), (1e7, 0.0), (1e9, 1.0), (1e9, 1e7), (1e12, 1e3)]


def data(signal: float, ratio: float, far: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X = [1, x, z, v], z constant within groups, v nearly so, x at a distance; y, y with missing values."""
    rng = np.random.default_rng(int(np.log10(signal * max(ratio, 1.0))))
    codes = rng.permutation(np.r_[np.arange(8), rng.integers(0, 8, 40)])
    n, z, v = len(codes), rng.normal(size=8)[codes], rng.normal(size=8)[codes]
    X = np.column_stack([np.ones(n), far + z + rng.normal(size=n), z, v + 1e-3 * rng.normal(size=n)])
    y = rng.normal(size=n) + signal * (X[:, 1] - far - 0.7 * z) + ratio * rng.normal(size=8)[codes]
    gone = y.copy()
    gone[rng.choice(n, 5, replace=False)] = np.nan
    return X, codes, np.column_stack([y, gone])


@pytest.mark.parametrize("far", [0.0, 1e8])
@pytest.mark.parametrize(("signal", "ratio"), SIGNALS)
def test_against_sixty_digits(signal: float, ratio: float, far: float) -> None:
    X, codes, Y = data(signal, ratio, far)
    for y in Y.T:
        found = jaxlmm.fit(X, y, codes)
        rows = ~np.isnan(y)
        loglik, sigma2, coef, se = oracle(X[rows], codes[rows], y[rows], found.lam[0]).floats()
        assert found.converged.all()
        np.testing.assert_allclose(found.loglik[0], loglik, rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.sigma2[0], sigma2, rtol=1e-11)
        # z is far smaller than the time stamp x: the ratio squared times the rounding of its products.
        np.testing.assert_allclose(found.se[0], se, rtol=1e-10 if ratio < 1e6 or not far else 2e-8)
        # What an estimate loses by being stored, and by the groups' part in least squares.
        size = 1e-10 + 4e-15 * np.abs(coef) / se + 1e-14 * ratio
        assert (np.abs(found.coef[0] - coef) <= size * se).all(), (found.coef[0] - coef) / se


def test_weights_and_own_designs() -> None:
    """An outlier that is missing gives a response a basis of its own, and so its own residuals."""
    X, codes, Y = data(1e9, 10.0, 0.0)
    w = np.random.default_rng(0).uniform(0.2, 5, len(codes))
    X[7, 1], Y[7, 1] = 1e7, np.nan
    Y[7, 0] = 1e16
    found = jaxlmm.fit(X, Y, codes, weights=w)
    assert found.converged[1]
    rows = ~np.isnan(Y[:, 1])
    loglik, sigma2, coef, se = oracle(X[rows], codes[rows], Y[rows, 1], found.lam[1], w[rows]).floats()
    np.testing.assert_allclose(found.loglik[1], loglik, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.sigma2[1], sigma2, rtol=1e-11)
    np.testing.assert_allclose(found.se[1], se, rtol=1e-10)
    assert (np.abs(found.coef[1] - coef) <= (1e-10 + 4e-15 * np.abs(coef) / se) * se).all()


def test_profile_intervals_shift_with_a_signal() -> None:
    """What is subtracted before all else comes back in the limits."""
    X, codes, Y = data(1.0, 1.0, 0.0)
    y, beta = Y[:, 0], 2.0**30
    plain = jaxlmm.fit(X, y, codes, method="ML").profile()
    signal = jaxlmm.fit(X, y + beta * X[:, 2], codes, method="ML").profile()
    np.testing.assert_allclose(signal.coef[0, 2] - beta, plain.coef[0, 2], atol=1e-5)
    np.testing.assert_allclose(signal.sigma[0], plain.sigma[0], rtol=1e-5)


def test_residuals_hold_all_digits() -> None:
    rng = np.random.default_rng(0)
    X, coef = rng.normal(size=(9, 3)), rng.normal(size=(3, 2)) * 1e12
    level = rng.normal(size=(9, 2))
    left = rng.normal(size=(9, 2)) * 1e-3
    y = X @ coef + level + left
    found = residuals(y, X, coef, level)
    for (i, j), value in np.ndenumerate(found):
        terms = [Fraction(y[i, j]), -Fraction(level[i, j])]
        terms += [-Fraction(X[i, k]) * Fraction(coef[k, j]) for k in range(3)]
        exact = sum(terms)
        assert abs(Fraction(value) - exact) <= abs(exact) / 2**53 + sum(map(abs, terms)) / 2**102


def test_many_groups_lose_nothing_either() -> None:
    """Reducers of more groups sum rows in another order."""
    rng = np.random.default_rng(3)
    codes, n = np.repeat(np.arange(20), 5), 100
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    y = rng.normal(size=n) + rng.normal(size=20)[codes] + 1e9 * X[:, 1]
    found = jaxlmm.fit(X, y, codes)
    loglik, sigma2, _, _ = oracle(X, codes, y, found.lam[0]).floats()
    np.testing.assert_allclose(found.loglik[0], loglik, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.sigma2[0], sigma2, rtol=1e-11)

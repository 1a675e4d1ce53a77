"""The solver alone: interior, boundary, flat, several valleys, harmless nonsense."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxlmm._types import float64_scope
from jaxlmm.families.intercept.minimum import minimise
from jaxlmm.families.intercept.objective import Terms, deviance, moments, slope
from jaxlmm.optimize.search import GRID_SIZE, T_MAX, make_grid


def solve(d: list[float], m: list[float], nu: float, u2: np.ndarray, rest: np.ndarray, n_unit: int = 0) -> dict:
    d_, m_ = np.array(d, dtype=float), np.array(m, dtype=float)
    terms = Terms(d_, m_, np.float64(nu), np.float64(d_.max()), len(d), 0, n_unit)
    with float64_scope():
        found = jax.jit(minimise)(terms, np.atleast_2d(u2.T).T, np.atleast_1d(rest), make_grid(d_))
        return {k: np.asarray(getattr(found, k)) for k in ("lam", "pwrss", "deviance", "hessian", "converged")}


def brute(d: np.ndarray, m: np.ndarray, nu: float, u2: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """The lowest deviance of each response on a fine grid."""
    products = np.outer(d, np.concatenate([[0.0], np.exp(np.linspace(-12, 12, 200_001))]))
    shrink, logdet = 1 / (1 + products), m @ np.log1p(products)
    return np.array([(nu * np.log(u @ shrink + r) + logdet).min() for u, r in zip(u2.T, rest, strict=True)])


def test_interior_has_the_closed_form() -> None:
    # One eigenvalue: lam d + 1 = (u2 / m) / (rest / (nu - m)).
    d, m, nu = 5.0, 7.0, 60.0
    u2, rest = np.array([[70.0, 10.0, 1e6]]), np.array([53.0, 53.0, 1e-3])
    found = solve([d], [m], nu, u2, rest)
    np.testing.assert_allclose(found["lam"], ((u2[0] / m) / (rest / (nu - m)) - 1) / d, rtol=1e-11)
    assert found["converged"].all()


def test_boundary_is_exactly_zero() -> None:
    found = solve([5.0], [7.0], 60.0, np.array([[6.9, 7.0 * (1 - 1e-9), 0.0]]), np.array([53.0] * 3))
    assert (found["lam"] == 0).all() and found["converged"].all()
    just_inside = solve([5.0], [7.0], 60.0, np.array([[7.0 * (1 + 1e-6)]]), np.array([53.0]))
    np.testing.assert_allclose(just_inside["lam"], 1e-6 / 5, rtol=1e-6)


def test_flat_stretch_and_tiny_numbers() -> None:
    found = solve([5.0], [7.0], 60.0, np.array([[7e-150]]), np.array([1e-152]))
    np.testing.assert_allclose(found["lam"], ((1e-150) / (1e-152 / 53) - 1) / 5, rtol=1e-10)


def test_two_valleys() -> None:
    """Two eigenvalues far apart with the variance in different places: both valleys are real."""
    rng = np.random.default_rng(0)
    d, m, nu, several = [1000.0, 1.0], [3.0, 40.0], 60.0, 0
    u2 = np.stack([rng.uniform(0.0, 6.0, 4000) ** 2, rng.uniform(1.0, 400.0, 4000)])
    rest = rng.uniform(5.0, 40.0, 4000)
    found = solve(d, m, nu, u2, rest)
    assert found["converged"].all()
    lam = np.concatenate([[0.0], np.exp(np.linspace(-12, 9, 2001))])
    D = 1 + np.outer(d, lam)
    for i in range(4000):
        value = nu * np.log((u2[:, i, None] / D).sum(0) + rest[i]) + np.array(m) @ np.log(D)
        assert found["deviance"][i] <= value.min() + 1e-9
        inner = (value[1:-1] < value[:-2]) & (value[1:-1] < value[2:])
        several += inner.sum() + (value[0] <= value[1]) > 1
    assert several >= 20  # the case does occur in this test


@pytest.mark.parametrize("seed", range(20))
def test_random_spectra_against_a_fine_grid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    J = int(rng.integers(1, 6))
    d, m = np.exp(rng.uniform(-2, 9, J)), rng.integers(1, 30, J).astype(float)
    nu = m.sum() + float(rng.integers(1, 50))
    u2 = np.exp(rng.uniform(-6, 8, (J, 20)))
    rest = np.exp(rng.uniform(-3, 5, 20))
    found = solve(list(d), list(m), nu, u2, rest)
    assert found["converged"].all()
    value = brute(d, m, nu, u2, rest)
    assert (found["deviance"] <= value + 1e-10 * np.abs(value)).all()


def test_nan_stays_with_its_response() -> None:
    u2, rest = np.array([[70.0, np.nan, 70.0]]), np.array([53.0, 53.0, np.nan])
    found = solve([5.0], [7.0], 60.0, u2, rest)
    np.testing.assert_allclose(found["lam"][0], (10 / 1 - 1) / 5, rtol=1e-11)
    assert found["converged"].tolist() == [True, False, False]


def test_derivatives_are_those_of_the_deviance() -> None:
    rng = np.random.default_rng(1)
    d, m, u2 = rng.uniform(0.1, 50, 8), np.ones(8), rng.uniform(0, 9, 8)
    m[5:] = [4.0, 6.0, 0.0]
    with float64_scope():
        terms = Terms(d, m, np.float64(40.0), np.float64(d.max()), 8, 0, 5)
        known, grad, twice = (jax.jit(f) for f in (slope, jax.grad(deviance), jax.grad(jax.grad(deviance))))
        for t in (0.0, 0.3, 4.0):
            first, second = known(np.float64(t), terms, u2, np.float64(11.0))
            np.testing.assert_allclose(first, grad(t, terms, u2, 11.0), rtol=1e-10)
            np.testing.assert_allclose(second, twice(t, terms, u2, 11.0), rtol=1e-9)
        s = moments(np.float64(0.0), terms, u2, np.float64(11.0)).s
        np.testing.assert_allclose(s, u2.sum() + 11.0, rtol=1e-14)


@pytest.mark.parametrize("spread", [1.0, 1e2, 1e8, 1e14])
def test_grid_has_one_shape_and_covers_the_range(spread: float) -> None:
    grid = make_grid(np.array([1.0, spread, 0.0]))
    assert grid.shape == (GRID_SIZE,)
    assert grid[0] == 0 and grid[-1] == pytest.approx(T_MAX) and (np.diff(grid) > 0).all()
    # The certificate, not the grid, answers for what lies between the points.
    assert np.diff(grid)[grid[1:] < np.log(spread) + 4].max(initial=0) <= 1.6
